"""What a person sees while a job runs: a live bar on a terminal, a plain line now and then elsewhere. All on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from runner.report import counted
from runner.secrets import hide
from runner.texts import escaped
from runner.types import Failure, Receipt

PLAIN_EVERY = 10.0  # seconds between two plain lines
MOMENT = 1.0  # seconds that something takes before a plain line tells of it


class Progress(Protocol):
    """Is told what happens."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def during(self, what: str) -> AbstractContextManager[object]:
        """Show, while the context is open, what happens before the first shard; from any thread."""

    def start(self, shards: int, done: int, rows: int | None) -> None:
        """Begin: `shards` in all, of which `done` before; `rows` still to come, if known."""

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Show where the job stands, after a shard is committed or has failed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def progress() -> Progress:
    """A live bar where stderr is a terminal, plain lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Plain()


class _Counts:
    """What both kinds count."""

    def __init__(self) -> None:
        self.shards = self.done = self.failed = self.rows = 0
        self.started = time.monotonic()

    def add(self, receipt: Receipt | None, failure: Failure | None) -> None:
        if receipt is not None:
            self.done += 1
            self.rows += receipt.rows_in
        self.failed += failure is not None

    def rate(self) -> float:
        return self.rows / max(1e-9, time.monotonic() - self.started)


class Plain:
    """Lines for logs: the first shard, then every 10 s, then the last."""

    def __init__(self) -> None:
        """Start with nothing shown."""
        self._counts = _Counts()
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Print it to whoever reads; a script whose output nobody reads is not to fail for that."""
        with contextlib.suppress(OSError, ValueError):
            print(escaped(hide(text)), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Print it once it has taken a moment: most jobs need none."""
        timer = threading.Timer(MOMENT, self.say, [f"{what} ..."])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def start(self, shards: int, done: int, rows: int | None) -> None:
        """Say how much there is to do."""
        self._counts = _Counts()
        self._counts.shards, self._counts.done = shards, done
        known = "" if rows is None else f", {counted(rows, 'row')}"
        self.say(
            f"predicting {counted(shards - done, 'shard')}{known}"
            + (f" ({done:,} of {shards:,} done before)" if done else "")
        )

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Print a line if the last is old enough, or nothing remains."""
        counts = self._counts
        counts.add(receipt, failure)
        now = time.monotonic()
        if (receipt is None and failure is None) or (now - self._shown < PLAIN_EVERY and counts.done < counts.shards):
            return
        self._shown = now
        failed = f", {counts.failed} failed" if counts.failed else ""
        self.say(
            f"{counts.done:,}/{counts.shards:,} shards, {counts.rows:,} rows, {counts.rate():,.0f} rows/s, {in_flight} in flight{failed}"
        )

    def close(self) -> None:
        """Nothing to restore."""


class Bar:
    """A rich progress bar."""

    def __init__(self) -> None:
        """Make the bar; it appears with `start`."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self._counts = _Counts()
        console = Console(stderr=True)
        self._before = RichProgress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
            console=console, transient=True,
        )  # fmt: skip
        self._bar = RichProgress(
            TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TextColumn("shards  {task.fields[details]}"),
            TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(),
            console=console,
        )  # fmt: skip
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print it above the bar."""
        with contextlib.suppress(OSError, ValueError):
            self._bar.console.print(escaped(hide(text)), markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show a line with the time that it takes; several at once, a line for each."""
        if self._task is None:
            self._before.start()
        task = self._before.add_task(what, total=None)
        try:
            yield
        finally:
            self._before.remove_task(task)

    def start(self, shards: int, done: int, rows: int | None) -> None:  # noqa: ARG002 (the bar counts shards)
        """Show the bar."""
        self._counts = _Counts()
        self._counts.shards, self._counts.done = shards, done
        self._before.stop()
        self._bar.start()
        self._task = self._bar.add_task("", total=shards, completed=done, details="")

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Move the bar."""
        counts = self._counts
        counts.add(receipt, failure)
        failed = f"  {counts.failed} failed" if counts.failed else ""
        details = f"{counts.rows:,} rows  {counts.rate():,.0f} rows/s  {in_flight} in flight{failed}"
        self._bar.update(self._task, completed=counts.done, details=details)

    def close(self) -> None:
        """Stop the bar where it stands."""
        self._before.stop()
        self._bar.stop()
