"""`action=plan`: show what would run, what is done and what fits. Nothing is predicted for the sink, and nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from runner.driver.job import Job
from runner.driver.opening import open_ledger, reading, setup_of, survey_of
from runner.driver.survey import notes_on_size
from runner.ledger.admission import is_replaced
from runner.modes.fit import demands
from runner.process.signals import Signals
from runner.tuning import tune
from runner.types import Fit, Fragment, Plan, Shard
from runner.words.plain import counted, range_in_words, size

SHOWN = 20


def preview(job: Job, plan: Plan) -> list[str]:
    """The lines to print.

    Raises:
        ConfigError, SinkRefused: As a run would.
    """
    ledger = open_ledger(job, "preview")
    replaced = is_replaced(ledger, job.fields, job.sink.save_mode, job.accepted)
    there, ledger = len(ledger.committed), ledger.as_if_empty() if replaced else ledger
    with reading(job):
        survey = survey_of(job, ledger)
        pending = {shard.id for shard in survey.pending}
        shards = [*ledger.shards, *survey.new]
        found: Fit | None = job.mode.fits(setup_of(job, lambda text: print(text, file=sys.stderr), Signals()))
        notes = [*survey.notes, *(notes_on_size(job, survey, found.count) if found else ())]
        return [
            *_table(shards, pending, job.source.piece),
            *_totals(shards, pending),
            *(f"note: {note}" for note in notes),
            *([f"note: replaces the output that is there: {counted(there, 'part')}"] if replaced and there else ()),
            f"each call asks for {_asked(job)}",
            _fitting(found),
            *(tune(job, survey, survey.pending or shards) if plan.tune_batch else ()),
            f"output: {ledger.store.root}",
        ]


def _table(shards: Sequence[Shard], pending: set[str], piece: str) -> Iterator[str]:
    yield f"{'shard':>8}  {'rows':>12}  {'bytes':>10}  {'files':>5}  state      input"
    for shard in shards[:SHOWN]:
        rows = "?" if shard.rows is None else f"{shard.rows:,}"
        files = list(dict.fromkeys(fragment.input.name for fragment in shard.fragments))
        state = "pending" if shard.id in pending else "committed"
        first = shard.fragments[0]
        more = f" and {len(files) - 1} more" if len(files) > 1 else _place(first, piece)
        yield f"{shard.sequence:>8}  {rows:>12}  {size(shard.bytes):>10}  {len(files):>5}  {state:<9}  {files[0]}{more}"
    if len(shards) > SHOWN:
        yield f"{'...':>8}  and {len(shards) - SHOWN:,} more"


def _place(fragment: Fragment, piece: str) -> str:
    """Which part of its input a fragment is, in the source's own terms."""
    span = fragment.span
    if not span or (fragment.joinable and not span[-1]):
        return ""
    return f" {range_in_words(span, piece).replace(' to ', '-')}" if fragment.joinable else f" {list(span)}"


def _totals(shards: Sequence[Shard], pending: set[str]) -> Iterator[str]:
    rows = [shard.rows for shard in shards]
    known = "rows not known before reading" if None in rows else counted(sum(count or 0 for count in rows), "row")
    done = len(shards) - len(pending)
    total = size(sum(shard.bytes for shard in shards))
    yield f"{counted(len(shards), 'shard')}, {known}, {total}; {done:,} committed, {len(pending):,} to do"


def _asked(job: Job) -> str:
    asked = demands(job.resources)
    return (
        ", ".join(
            size(amount) + " memory" if name == "memory" else f"{amount:g} {name}" for name, amount in asked.items()
        )
        or "nothing"
    )


def _fitting(found: Fit | None) -> str:
    if found is None:
        return "fits: this process does it all, one call at a time"
    return f"fits: {found.count} at once ({found.arithmetic})"
