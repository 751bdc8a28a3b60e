"""What a run did: an object in Python, `report.json` in the sink, the closing lines on the terminal and in `run.log`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runner import texts
from runner.errors import Incomplete, Interrupted, TooManyBadRows
from runner.secrets import hidden
from runner.types import Failure, Stages, Vitals

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Status = Literal["running", "complete", "incomplete", "failed", "interrupted"]


@dataclass(frozen=True)
class Problem:
    """Why a run did not complete.

    Attributes:
        kind: The kind of the failure that ended it, else the name of the error.
        message: As it was shown.
        details: The traceback.
    """

    kind: str
    message: str
    details: str = ""


@dataclass
class Report:
    """What a run did.

    Attributes:
        run_id: Names the run under `_runner/runs/`.
        status: How it ended.
        exit_code: 0 complete, 1 failed, 75 incomplete, 128 + signal.
        sink: Where the output is.
        shards: Planned, over all plans of the sink.
        committed: Shards committed by this run.
        committed_before: Shards that were there already.
        rows_in: Rows read by this run, after filters.
        rows_out: Rows predicted by this run.
        rows_quarantined: Rows put aside by this run.
        bytes_in: Stored size of the shards committed by this run.
        bytes_out: Size of their parts.
        seconds: Wall time of the whole run.
        predicting_seconds: Wall time from the first call to the last answer, plus what the first batch took.
        stages: Worker seconds per stage, summed over workers.
        wait: Worker seconds in which a worker had nothing to do.
        workers: Worker processes that committed something.
        threads: In each worker's native pools.
        ray_seconds: Wall time that starting a private Ray took.
        vitals: The worst of any worker: most memory, slowest load.
        retries: Tries after transient storage errors.
        lost_workers: Workers that died.
        failures: Shards that failed for good.
        notes: What people should know: skipped, uncovered, accepted.
        next_command: What to run next, if there is something.
        error: Why the run did not complete.
        started: When, in UTC.
        ended: When, in UTC.
        host: That the driver ran on.
        command: What does the same again.
        config: Resolved, without secrets.
    """

    run_id: str
    sink: str
    status: Status = "complete"
    exit_code: int = 0
    shards: int = 0
    committed: int = 0
    committed_before: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    predicting_seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)
    wait: float = 0.0
    workers: int = 0
    threads: int = 1
    vitals: Vitals = field(default_factory=Vitals)
    ray_seconds: float = 0.0
    retries: int = 0
    lost_workers: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next_command: str | None = None
    error: Problem | None = None
    started: str = ""
    ended: str = ""
    host: str = ""
    command: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Begin without a way to the rows; `runner.run` gives one."""
        self.output: Callable[[], pa.Table] | None = None

    def to_arrow(self) -> pa.Table:
        """All rows of the sink, in the order of the input, as an Arrow table.

        Raises:
            RuntimeError: The report does not come from `runner.run`.
        """
        if self.output is None:
            raise RuntimeError("only a report that runner.run returns can read the predictions; read the sink's files")
        return self.output()

    def to_pandas(self) -> pd.DataFrame:
        """All rows of the sink, in the order of the input, as a DataFrame."""
        return self.to_arrow().to_pandas()

    def to_json(self) -> bytes:
        """All of it, for programs."""
        content = asdict(self)
        content["stages"] = self.stages._asdict()
        return json.dumps(hidden(content), indent=1, default=str).encode()

    @property
    def remaining(self) -> int:
        """Shards that are still to be predicted."""
        return self.shards - self.committed - self.committed_before


def ended(report: Report, error: BaseException | None, when: str) -> None:
    """Note how a run ended."""
    report.ended = when
    if error is None:
        return
    code = getattr(error, "exit_code", None)
    stopped = isinstance(error, Interrupted | KeyboardInterrupt)
    report.exit_code = code if code is not None else 130 if stopped else 1
    report.status = "interrupted" if stopped else "incomplete" if report.exit_code == Incomplete.exit_code else "failed"
    report.next_command = None if isinstance(error, TooManyBadRows) else report.command
    details = getattr(error, "details", "") or texts.whole(error)
    report.error = Problem(getattr(error, "kind", "") or type(error).__name__, str(error), details)


def size(count: float) -> str:
    """Bytes for people: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def counted(number: int, noun: str) -> str:
    """`1 shard`, `2 shards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
    """What a job on one machine may do without."""
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
