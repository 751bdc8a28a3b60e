"""The closing lines of a run, as the terminal and `run.log` show them."""

from __future__ import annotations

from collections.abc import Iterator

from runner.report.report import Report
from runner.words.plain import counted, size


def summary(report: Report) -> list[str]:
    """The closing lines."""
    lines = [_headline(report)]
    if report.committed:
        rate = report.rows_in / report.predicting_seconds if report.predicting_seconds else 0.0
        lines.append(
            f"  rows     {report.rows_in:,} in, {report.rows_out:,} out, {report.rows_quarantined:,} quarantined   "
            f"bytes {size(report.bytes_in)} in, {size(report.bytes_out)} out"
        )
        read, predict, write = report.stages
        lines.append(
            f"  workers  {report.workers}   read {read:.1f} s, predict {predict:.1f} s, write {write:.1f} s, wait {report.wait:.1f} s"
        )
        lines.append(f"  model    {_model(report)}")
        lines.append(
            f"  rate     {rate:,.0f} rows/s while predicting ({report.predicting_seconds:.1f} s of {report.seconds:.1f} s)"
        )
    if trouble := list(_trouble(report)):
        lines.append(f"  trouble  {', '.join(trouble)}")
    if len(report.failures) > 1:  # one has been told already
        lines += [f"  failed   {failure.message}" for failure in report.failures[:5]]
    lines += [f"  note     {note}" for note in [*report.notes, *_shortness(report)]]
    if report.rows_quarantined:
        lines.append(f"  bad rows {report.sink}/_runner/quarantine/")
    lines.append(f"  output   {report.sink}")
    if report.next_command:
        lines.append(f"{'once mended, ' if report.status == 'failed' else ''}continue with: {report.next_command}")
    return lines


def _model(report: Report) -> str:
    vitals = report.vitals
    loaded = f"loaded in {vitals.load_seconds:.1f} s"
    if vitals.model_bytes:
        told = f"{size(vitals.model_bytes)}, {loaded}, {'copied by each worker' if vitals.copied else 'shared'}"
    else:
        told = loaded if report.workers == 1 else f"{loaded} or less by each of {report.workers} workers"
    private = vitals.private_bytes
    return told if private is None else f"{told}; private memory {size(private)} per worker"


def _trouble(report: Report) -> Iterator[str]:
    if report.retries or report.lost_workers:
        yield counted(report.retries, "retry").replace("retrys", "retries")
        yield counted(report.lost_workers, "lost worker")
    if halved := report.vitals.halved:
        yield f"batches halved {counted(halved, 'time')} for want of memory (a smaller batch_size spares that)"


def _shortness(report: Report) -> list[str]:
    """A hint for a short job on one machine: it can do without Ray."""
    if not report.committed or report.ray_seconds <= report.predicting_seconds:
        return []
    took = f"Ray took {report.ray_seconds:.1f} s to start, predicting {report.predicting_seconds:.1f} s"
    return [f"{took}: on one machine, mode=processes does the same without Ray"]


def _headline(report: Report) -> str:
    done = f"{counted(report.committed, 'shard')} committed"
    before = f", {report.committed_before:,} were there before" if report.committed_before else ""
    if report.status == "complete":
        return (
            f"complete: {done}{before}"
            if report.committed
            else f"complete: nothing to do, {counted(report.committed_before, 'shard')} committed before"
        )
    return f"{report.status}: {done}{before}, {report.remaining:,} of {report.shards:,} remain"
