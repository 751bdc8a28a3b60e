"""What one run has done so far: counts for the report, records in the ledger, progress, and the end at too many bad rows."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from types import TracebackType

from runner.driver.dispatch import Committed, Dispatcher, Event, Retried
from runner.driver.job import Job
from runner.driver.progress import Progress
from runner.driver.survey import Survey
from runner.errors import RunnerError, TooManyBadRows
from runner.fingerprint.fields import versions
from runner.ledger import quarantine
from runner.ledger.ledger import Ledger
from runner.ledger.quarantine import Budget
from runner.ledger.recipe import Recorded
from runner.report.report import Report, ended
from runner.types import Failure, Probe, Receipt, Shard
from runner.words.plain import counted, size
from runner.worker import first_batch

ASIDE = "quarantined: "
NOTES = 10  # lines of notes in a report before quarantined rows are only counted


class Account:
    """Keeps the count of one run. A context: at its end the report is complete, however the run ends."""

    def __init__(self, job: Job, show: Progress, ledger: Ledger, report: Report) -> None:
        self.job, self.show, self.ledger, self.report = job, show, ledger, report
        self._started = time.monotonic()
        self._predicting = 0.0
        self._workers: set[str] = set()
        self._draining = False
        self._kept: list[Shard] = []
        self._tried = (0, 0)
        put_aside = job.errors.on_bad_rows == "quarantine" or ledger.below(quarantine.FOLDER)
        self._before = ledger.seen_before() if put_aside else (0, 0)

    def __enter__(self) -> Account:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def begin(self, survey: Survey) -> None:
        """Take over what the survey found: its notes, and the number of shards."""
        self.note(survey.notes)
        self.report.shards = len(self.ledger.shards) + len(survey.new)
        if not survey.pending and self.ledger.recorded is None:  # an empty input, allowed
            self.ledger.record_recipe(Recorded(self.job.fields, survey.schema, None, self.job.config, versions()))

    def note(self, notes: Sequence[str]) -> None:
        """Show notes now, and keep them in the report."""
        self.report.notes += notes
        for note in notes:
            self.show.say(f"note: {note}")

    def proved(self, event: Event, shard: Shard) -> None:
        """Count the time of a first batch that is kept, since its rows are not predicted again."""
        if isinstance(event, Probe) and event.kept:
            self._kept.append(shard)
            self.report.predicting_seconds += sum(event.stages)
            self.report.stages = self.report.stages.plus(event.stages)
        elif isinstance(event, Retried):
            self._show_retry(event)

    def tried(self, dispatcher: Dispatcher) -> None:
        """Count the retries and lost workers of a first batch, apart from those of the shards."""
        self._count_tries(dispatcher)
        self._tried = self.report.retries, self.report.lost_workers

    def _count_tries(self, dispatcher: Dispatcher) -> None:
        retries, lost = self._tried
        self.report.retries, self.report.lost_workers = retries + dispatcher.retries, lost + dispatcher.lost_workers

    def started(self, pending: Sequence[Shard]) -> None:
        """Note that the pending shards are about to be submitted."""
        self.report.shards = len(self.ledger.shards)
        self.report.committed_before = self.report.shards - len(pending)
        counts = [shard.rows for shard in pending]
        rows = None if None in counts else sum(count or 0 for count in counts)
        self.show.start(self.report.shards, self.report.committed_before, rows)
        self._predicting = time.monotonic()

    def take(self, event: Event, dispatcher: Dispatcher) -> None:
        """Count and show what became of a shard or of one try."""
        report = self.report
        self._count_tries(dispatcher)
        if isinstance(event, Committed):
            self._count(event.receipt, event.shard)
            self.show.update(dispatcher.in_flight, receipt=event.receipt)
        elif isinstance(event, Failure):
            report.failures.append(event)
            self.show.say(f"failed: {event.message}")
            self.show.update(dispatcher.in_flight, failure=event)
        elif isinstance(event, Retried):
            self._show_retry(event)

    def _show_retry(self, event: Retried) -> None:
        self.show.say(f"trying {event.shard.name} again in {event.wait:.1f} s: {event.reason}")

    def _count(self, receipt: Receipt, shard: Shard) -> None:
        report = self.report
        self.ledger.receive(receipt, shard)
        report.committed += 1
        report.rows_in += receipt.rows_in
        report.rows_out += receipt.rows_out
        report.rows_quarantined += receipt.rows_quarantined
        report.bytes_in += shard.bytes
        report.bytes_out += receipt.bytes_out
        report.stages = report.stages.plus(receipt.stages)
        report.vitals = report.vitals.plus(receipt.vitals)
        self._workers.add(receipt.worker)
        report.workers = len(self._workers)
        report.notes += [f"{ASIDE}{complaint}" for complaint in receipt.complaints if len(report.notes) < NOTES]
        self.hold_to_budget()

    def refuse_put_aside(self) -> None:
        """Refuse to go on under `errors=strict` where earlier runs have put rows aside that no completed run has accepted.

        Raises:
            TooManyBadRows: Earlier runs have put rows aside, which this job does not allow.
        """
        strict = self.job.errors.on_bad_rows != "quarantine"
        bad = self._before[1] - self.ledger.accepted_bad_rows() if strict and self._before[1] else 0
        if bad > 0:
            raise TooManyBadRows(
                f"errors.on_bad_rows=fail allows no bad row, and earlier runs have put {counted(bad, 'row')} aside in "
                f"{self.ledger.store.path(quarantine.FOLDER)}; run it with errors=quarantine to leave them there, or predict into "
                f"another {self.ledger.store.key}"
            )

    def hold_to_budget(self, *, final: bool = False) -> None:
        """Stop if this run and those before it put more rows into quarantine than `errors.max_bad_rows` allows.

        Raises:
            TooManyBadRows: Naming the first few.
        """
        if self.job.errors.on_bad_rows != "quarantine":
            return
        budget = Budget(self.job.errors.max_bad_rows)
        seen, bad = self._before[0] + self.report.rows_in, self._before[1] + self.report.rows_quarantined
        if budget.passed(bad, seen, final=final):
            first = "; ".join(note.removeprefix(ASIDE) for note in self.report.notes if note.startswith(ASIDE))
            where = first or f"they are in {self.ledger.store.path(quarantine.FOLDER)}"
            raise TooManyBadRows(
                f"{budget.arithmetic(bad, seen)}: {where}; allow more, or mend the model and predict into another {self.ledger.store.key}"
            )

    def draining(self, number: int) -> None:
        """Say that the job is stopping, the first time that the signal is noticed."""
        if not self._draining:
            self._draining = True
            grace = self.job.errors.grace_period
            self.show.say(
                f"stopping on signal {number}: what is in flight gets up to {grace:g} s to commit; again stops at once"
            )

    def predicted(self, workers: int) -> None:
        """Note that the last shard has been answered, by so many workers."""
        self.report.predicting_seconds += time.monotonic() - self._predicting
        self.report.wait = max(0.0, workers * self.report.predicting_seconds - sum(self.report.stages))
        self._note_written_weights()

    def _note_written_weights(self) -> None:
        vitals = self.report.vitals
        if vitals.written_bytes > vitals.worth_telling:
            own = f"{size(vitals.written_bytes)} of the {size(vitals.model_bytes)}"
            self.report.notes.append(f"the model writes to its own weights: each worker holds a copy of {own}")

    def _end(self, error: BaseException | None) -> None:
        report = self.report
        report.seconds = time.monotonic() - self._started
        report.shards = max(report.shards, len(self.ledger.shards))
        report.committed_before = len(self.ledger.committed) - report.committed
        if error is not None:
            ended(report, error, report.ended)
            if isinstance(error, RunnerError):
                error.report = report
        for shard in self._kept:
            with contextlib.suppress(OSError):  # the next run deletes it
                self.ledger.store.delete(first_batch.file_name(self.ledger.run_id, shard.id))
        if self.ledger.recorded is not None:
            with contextlib.suppress(Exception):  # people need the first error, not what follows from it
                self.ledger.flush()
