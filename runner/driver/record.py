"""The record of a run in its sink, however it ends: `report.json` for programs, `run.log` for people.

Both lie in the run's own folder `_runner/runs/<id>/`. They are written when the sink has been marked as this run's, then at most every
ten seconds, and at the end. A run that is killed leaves a report that says `running`. If they cannot be written, the run goes on.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType

from runner.driver.job import Job
from runner.driver.progress import Progress
from runner.errors import Incomplete
from runner.report.report import Report, ended
from runner.report.summary import summary
from runner.types import Failure, Receipt, Store
from runner.words.secrets import hide

EVERY_SECONDS = 10.0  # between two writes while the run lasts: an object store cannot append
FIRST_LINES, LAST_LINES = 1_000, 1_000  # of a long log that are kept
LINE = 2_000  # characters of a line that are kept


def now() -> str:
    """The time in UTC, as records hold it: `2026-11-24T08:00:00.000Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_report(job: Job, run_id: str) -> Report:
    """The report of a run that begins now."""
    return Report(
        run_id, job.sink.records.root, threads=job.num_threads, started=now(), host=socket.gethostname(),
        command=job.command, config=dict(job.config),
    )  # fmt: skip


class Lines:
    """The lines of `run.log`, each with its time. Of very many lines, the first and the last are kept."""

    def __init__(self) -> None:
        """There is none."""
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._count = 0

    def add(self, text: str) -> None:
        """Add what has just happened. Further lines of the same text are indented."""
        for i, line in enumerate(hide(text).splitlines()):
            kept = self._first if self._count < FIRST_LINES else self._last
            kept.append(f"{now() if not i else ' ' * 24}  {line[:LINE]}\n")
            self._count += 1

    def content(self) -> bytes:
        """All that is kept."""
        left_out = self._count - len(self._first) - len(self._last)
        gap = [f"... {left_out:,} lines are left out\n"] if left_out else []
        return "".join([*self._first, *gap, *self._last]).encode(errors="replace")


class Record:
    """A context around a run that is also its `Progress`: it passes on what happens to another one, and records it.

    Attributes:
        report: Of the run.
    """

    def __init__(self, job: Job, run_id: str, show: Progress) -> None:
        """Take the job, the run's id, and what people see."""
        self.report = new_report(job, run_id)
        self._store: Store = job.sink.records
        self._show = show
        self._lines, self._changing = Lines(), threading.Lock()
        self._written: float | None = None  # when; `None` while the sink may be somebody else's
        self._counts = ""

    def __enter__(self) -> Record:
        """Nothing is written yet."""
        return self

    def begin(self) -> None:
        """Start to write, now that the sink is marked as this run's."""
        self._lines.add(f"run {self.report.run_id} on {self.report.host}: {self.report.command or 'from Python'}")
        self._write("report.json", replace(self.report, status="running").to_json())
        self._written = time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the run ended, except in a sink that refused it or cannot be reached."""
        self._show.close()
        if self._written is None and (not isinstance(error, Incomplete) or error.__cause__ is not None):
            return
        ended(self.report, error, now())
        if error is not None:
            self._lines.add(str(error) or type(error).__name__)
        self._lines.add("\n".join(summary(self.report)))
        self._write("report.json", self.report.to_json())
        self._write("run.log", self._lines.content())

    def _write(self, name: str, content: bytes) -> None:
        with contextlib.suppress(Exception):  # people need the run's own error
            self._store.replace(f"_runner/runs/{self.report.run_id}/{name}", content)

    def _note(self, text: str) -> None:
        with self._changing:
            self._lines.add(text)
        self._write_if_due()

    def _write_if_due(self) -> None:
        if self._written is None or time.monotonic() - self._written < EVERY_SECONDS:
            return
        self._written = time.monotonic()
        with self._changing:
            if self._counts:
                self._lines.add(self._counts)
            content = self._lines.content()
        self._write("run.log", content)

    # ------------------------------------------------ as a Progress

    def say(self, text: str) -> None:
        """Show and record it."""
        self._show.say(text)
        self._note(text)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show it, and record when it began and how long it took."""
        self._note(what)
        started = time.monotonic()
        with self._show.during(what):
            yield
        self._note(f"{what}: took {time.monotonic() - started:.1f} s")

    def start(self, shards: int, done: int, rows: int | None) -> None:
        """The first shards are on their way."""
        self._show.start(shards, done, rows)
        self._note(f"predicting {shards - done:,} of {shards:,} shards")

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Show it, and note the counts every ten seconds."""
        self._show.update(in_flight, receipt, failure)
        report = self.report
        self._counts = (
            f"{report.committed + report.committed_before:,}/{report.shards:,} shards, {report.rows_in:,} rows"
        )
        self._write_if_due()

    def move(self, rows: int) -> None:
        """Show it. It is not recorded: only what is committed is."""
        self._show.move(rows)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._show.close()
