"""`action=verify`: prove, without the model, that every input row is either predicted or in quarantine, and only once.

From the sink's records and listing, the parts' own bytes, and the source's listing; `deep` reads the inputs again as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

from runner.driver.job import Job
from runner.driver.opening import storage_errors
from runner.driver.survey import inputs
from runner.errors import ConfigError, Incomplete, JobFailed, SinkRefused
from runner.ledger import evidence, quarantine
from runner.ledger.admission import accepting, differing
from runner.ledger.ledger import MANIFEST, REWRITE, SUCCESS, Ledger
from runner.ledger.records import Entry, entry_in
from runner.types import Fragment, Reader, Shard
from runner.words.plain import counted, named

REMEDY = "delete the part and run the job again to predict it anew"


@dataclass
class Verdict:
    """What a verification found.

    Attributes:
        problems: One line per discrepancy; none is the proof.
        notes: What is no discrepancy: input that is not yet predicted, input that is gone since.
        parts: Parts that were looked at.
        rows_in: Input rows that the manifest accounts for.
        rows_out: Rows in the parts.
        rows_quarantined: Rows in quarantine.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    parts: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0


def verify(job: Job, *, deep: bool = False) -> Verdict:
    """Hold the sink against its plans, its manifest and the source.

    Raises:
        ConfigError, SinkRefused: There is nothing to verify, or it cannot be read.
        Incomplete: It cannot be read now.
    """
    verdict = Verdict()
    with storage_errors(f"{job.sink.records.place}", SinkRefused):
        ledger = Ledger(job.sink, "verify")
        if ledger.recorded is None:
            raise ConfigError(f"{ledger.store.place}: no run of ours has written here; there is nothing to verify")
        entries = _hold_against_records(job, ledger, verdict)
    with storage_errors("source", ConfigError), job.source.reading():
        _hold_against_source(job, ledger, verdict)
        if deep and ledger.recorded.source_schema is not None:
            reader = job.source.tolerant().reader(ledger.recorded.source_schema)
            verdict.problems += _deep_problems(reader, ledger.shards, entries, set(ledger.skipped()))
    return verdict


def _hold_against_records(job: Job, ledger: Ledger, verdict: Verdict) -> Mapping[str, Entry]:
    """Check everything but the source, and return what the manifest says of each part."""
    manifest, skipped = _manifest(ledger), set(ledger.skipped())
    parts = {part["shard"]: entry_in(part) for part in manifest["parts"]}
    entries = {shard: entry for shard, entry in parts.items() if entry is not None}
    verdict.problems += [*_other_job(job, ledger), *_unfinished(ledger, parts), *_strangers(ledger)]
    verdict.problems += [*_plan_problems(ledger, job.source.piece), *_manifest_problems(ledger, manifest, parts)]
    committed = [shard for shard in ledger.shards if shard.id in ledger.committed]
    rewritten = ledger.rewritten(committed)
    verdict.notes += _rewritten_note(len(rewritten))
    for shard in committed:
        if (entry := entries.get(shard.id)) is not None:
            if shard.id in rewritten:
                _count(verdict, entry)
            else:
                verdict.problems += _part_problems(ledger, shard, entry, verdict)
            if wrong := evidence.wrong_count(shard, entry.rows_in, skipped, filtered=job.source.filtered):
                verdict.problems.append(f"{ledger.part(shard)}: {wrong}")
    return entries


def _manifest(ledger: Ledger) -> Mapping[str, Any]:
    """The manifest, or one without parts if there is none."""
    text = ledger.store.read(MANIFEST)
    try:
        content: dict[str, Any] = {"parts": []} if text is None else json.loads(text)
        _ = [part["shard"] for part in content["parts"]]
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{ledger.store.path(MANIFEST)}: cannot be read ({type(error).__name__}: {error}); {REWRITE}"
        ) from error


def _other_job(job: Job, ledger: Ledger) -> Iterator[str]:
    """The differences between the job that was asked for and the one that wrote the sink: another job's output proves nothing."""
    for name, (was, now) in ledger.differences(job.fields, job.accepted).items():
        told = "; ".join(" ".join(line.split()) for line in differing(name, was, now))
        yield f"the sink holds the output of another job: {told} ({accepting([name])} lets it pass)"


def _manifest_problems(ledger: Ledger, manifest: Mapping[str, Any], parts: Mapping[str, Entry | None]) -> Iterator[str]:
    """Where the totals of the manifest do not follow from its parts and the recipe."""
    if not ledger.listed(MANIFEST) or ledger.recorded is None:
        return
    if manifest.get("fingerprint") != ledger.recorded.fingerprint:
        yield f"{MANIFEST}: is of another job than the recipe: its fingerprint is {manifest.get('fingerprint')!r}; {REWRITE}"
    if damaged := [ledger.part(shard) for shard in ledger.shards if shard.id in parts and parts[shard.id] is None]:
        yield f"{MANIFEST}: what it says of {named(damaged)} is not whole; {REWRITE}"
        return
    for number, name in enumerate(Entry._fields[:4]):
        total = sum(int(entry[number]) for entry in parts.values() if entry is not None)
        if manifest.get(name) != total:
            yield f"{MANIFEST}: {name} is {manifest.get(name)!r}, its parts make {total:,}; {REWRITE}"


def _unfinished(ledger: Ledger, manifest: Mapping[str, Any]) -> Iterator[str]:
    for shard in ledger.pending():
        yield f"{ledger.part(shard)}: the part is missing; run the job again to predict it"
    if not ledger.listed(SUCCESS):
        yield f"{SUCCESS}: is missing; the job is not complete"
    if unlisted := [ledger.part(shard) for shard in ledger.shards if shard.id not in manifest]:
        yield f"{MANIFEST}: does not account for {named(unlisted)}; run the job again, which writes what is missing"


def _strangers(ledger: Ledger) -> Iterator[str]:
    for name in ledger.strangers():
        yield f"{name}: is not ours; no plan names it"
    planned = {quarantine.file_name(shard) for shard in ledger.shards}
    for name in ledger.below(quarantine.FOLDER):
        if name not in planned:
            yield f"{name}: no plan names the shard of this quarantine file"


# ---------------------------------------------------------------- the plan covers every file exactly once


def _plan_problems(ledger: Ledger, piece: str) -> Iterator[str]:
    fragments = sorted(
        (fragment for shard in ledger.shards for fragment in shard.fragments),
        key=lambda each: (each.input.name, each.first_row, each.span[-2] if each.span and each.joinable else 0),
    )
    for path, group in groupby(fragments, key=lambda fragment: fragment.input.name):
        if problem := _coverage_problem(list(group), piece):
            yield f"{path}: {problem}"


def _coverage_problem(fragments: Sequence[Fragment], piece: str) -> str | None:
    """Why the planned fragments of an input do not cover it exactly once, as far as the plan shows; `None` if they do."""
    if len({(each.span, None if each.span else each.first_row) for each in fragments}) < len(fragments):
        return "is planned more than once"
    ranges = [each.span for each in fragments if each.joinable and each.span]
    if ranges and len(ranges) < len(fragments):
        return f"is planned whole, and in {piece}s"
    if len({span[:-2] for span in ranges}) == 1:  # they count the same
        noun = ranges[0][0] if len(ranges[0]) > 2 else f"{piece}s"
        return _gap(noun, [span[-2:] for span in ranges])
    if not ranges and any(each.span for each in fragments):
        return None  # only their source knows what such spans cover
    rows = [(each.first_row, each.first_row + each.rows) for each in fragments if each.rows is not None]
    return _gap("rows", rows) if len(rows) == len(fragments) else None


def _gap(what: str, ranges: Sequence[tuple[Any, ...]]) -> str | None:
    if ranges[0][0] != 0:
        return f"{what} 0 to {ranges[0][0] - 1} are in no plan"
    gaps = [(a, b) for a, b in pairwise(ranges) if a[1] != b[0]]
    return f"{what} {gaps[0][0]} and {gaps[0][1]} overlap or leave a gap" if gaps else None


# ---------------------------------------------------------------- the parts are what the manifest says


def _rewritten_note(count: int) -> list[str]:
    """A note on what was published and then rewritten by others: only their records say what it held."""
    told = "rewritten by others since published, such as by compaction: counted as the manifest has it, not read back"
    return [f"{counted(count, 'part')} {told}"] if count else []


def _count(verdict: Verdict, entry: Entry) -> None:
    verdict.parts += 1
    verdict.rows_in, verdict.rows_out = verdict.rows_in + entry.rows_in, verdict.rows_out + entry.rows_out
    verdict.rows_quarantined += entry.rows_quarantined


def _part_problems(ledger: Ledger, shard: Shard, entry: Entry, verdict: Verdict) -> Iterator[str]:
    name, size = ledger.part(shard), ledger.sizes[shard.id]
    verdict.parts += 1
    if size not in (entry.bytes, None):
        yield f"{name}: is not what was committed: {size:,} bytes, {entry.bytes:,} were committed; {REMEDY}"
        return
    try:
        found, (bad, aside) = ledger.examine(shard, size), ledger.quarantined(shard)
    except (JobFailed, Incomplete) as error:
        yield str(error)
        return
    if found.checksum != entry.checksum:
        yield f"{name}: is not what was committed: the same size, but another checksum; {REMEDY}"
        return
    rows = found.rows or 0
    verdict.rows_in, verdict.rows_out = verdict.rows_in + entry.rows_in, verdict.rows_out + rows
    verdict.rows_quarantined += bad
    if rows + bad != entry.rows_in:
        yield f"{name}: {rows:,} rows and {bad:,} in quarantine do not make {entry.rows_in:,} rows of input; {REMEDY}"
    elif entry.quarantine not in ("", aside):
        yield f"{quarantine.file_name(shard)}: is not what was committed: another checksum; delete it and {name}, and run the job again"


# ---------------------------------------------------------------- the inputs are what was predicted


def _hold_against_source(job: Job, ledger: Ledger, verdict: Verdict) -> None:
    covered = ledger.covered()
    try:
        files, _ = inputs(job, covered.values())
    except ConfigError as error:
        verdict.notes += error.problems
        files = []
    there = {file.name for file in files}
    for file in files:
        was = covered.get(file.name)
        if was is not None and (was.size, was.version) != (file.size, file.version):
            verdict.problems.append(f"{file.name}: changed since it was predicted")
    skipped = set(ledger.skipped())
    if skipped:
        verdict.notes.append(
            f"{counted(len(skipped), 'input file')} left out by errors.skip_files: {named(sorted(skipped))}"
        )
    if new := [file.name for file in files if file.name not in covered and file.name not in skipped]:
        verdict.notes.append(f"{counted(len(new), 'input file')} not yet predicted: {named(new)}")
    if gone := [path for path in covered if path not in there]:
        verdict.notes.append(f"{counted(len(gone), 'input file')} no longer there: {named(gone)}")


def _deep_problems(
    reader: Reader, shards: Sequence[Shard], manifest: Mapping[str, Entry], skipped: set[str]
) -> Iterator[str]:
    for shard in shards:
        if (entry := manifest.get(shard.id)) is None:
            continue
        read = [fragment for fragment in shard.fragments if fragment.input.name not in skipped]
        try:
            rows = sum(table.num_rows for fragment in read for table in reader.read(fragment))
        except Exception as error:
            yield f"{shard.name}: its input cannot be read again: {type(error).__name__}: {error}"
            continue
        if rows != entry.rows_in:
            yield f"{shard.name}: the input has {rows:,} rows now, {entry.rows_in:,} were predicted"


def lines_of(verdict: Verdict, root: str) -> list[str]:
    """The lines to print."""
    rows = f"{verdict.rows_in:,} rows in, {verdict.rows_out:,} predicted, {verdict.rows_quarantined:,} quarantined"
    count = len(verdict.problems)
    outcome = "verified" if not count else "1 discrepancy" if count == 1 else f"{count:,} discrepancies"
    return [
        f"{outcome}: {counted(verdict.parts, 'part')}, {rows}",
        *(f"  problem  {each}" for each in verdict.problems),
        *(f"  note     {each}" for each in verdict.notes),
        f"  output   {root}",
    ]
