"""What a person sees while a job runs: a live bar on a terminal, a plain line now and then elsewhere. All on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from runner.types import Failure, Receipt
from runner.words.exceptions import escaped
from runner.words.paint import marked
from runner.words.plain import counted
from runner.words.secrets import hide

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LEAST_BAR, MOST_BAR = 10, 40  # columns
SPACE = "  "  # between two counts
PLAIN_EVERY = 10.0  # seconds between two plain lines
MOMENT = 1.0  # seconds before a plain line says that something takes time


class Progress(Protocol):
    """Shows people what happens."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def during(self, what: str) -> AbstractContextManager[object]:
        """Show, while the context is open, what happens before the first shard; from any thread."""

    def start(self, shards: int, done: int, rows: int | None) -> None:
        """Begin: `shards` in all, of which `done` before; `rows` still to come, if known."""

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Show where the job stands, after a shard is committed or has failed."""

    def move(self, rows: int) -> None:
        """Show how many rows the shards in flight have predicted so far; their receipts count them again when they are committed."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def progress() -> Progress:
    """A live bar where stderr is a terminal, plain lines elsewhere."""
    return Bar() if sys.stderr.isatty() else Plain()


class _Counts:
    """The counts of a run, and what follows from them: rates, the time that remains."""

    def __init__(self) -> None:
        self.shards = self.before = self.done = self.failed = self.committed = self.moving = 0
        self.expected: int | None = None
        self.in_flight: int | None = None
        self.started = time.monotonic()

    def begin(self, shards: int, done: int, rows: int | None) -> None:
        self.shards, self.before, self.done, self.expected = shards, done, done, rows

    def add(self, in_flight: int, receipt: Receipt | None, failure: Failure | None) -> None:
        self.in_flight = in_flight
        if receipt is not None:
            self.done += 1
            self.committed += receipt.rows_in
        self.failed += failure is not None

    @property
    def rows(self) -> int:
        """Rows that are committed, and rows in flight that are known to be predicted."""
        return self.committed + self.moving

    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.started)

    def rate(self) -> float:
        return self.rows / self.seconds()

    def remaining(self) -> float | None:
        """Seconds to the end at the speed so far; `None` before anything is done.

        By shards and by rows, whichever is further: filters leave fewer rows than are expected.
        """
        by_shards = (self.done - self.before) / max(1, self.shards - self.before)
        share = min(1.0, max(by_shards, self.rows / self.expected if self.expected else 0.0))
        return self.seconds() * (1 - share) / share if share else None

    def parts(self) -> list[tuple[int, str]]:
        """The counts as texts, from left to right, each with its rank. Where there is no room, the highest rank is left out first."""
        told = [
            (1, f"{self.done:,}/{self.shards:,} shards"),
            (2, f"{self.rows:,} rows"),
            (5, f"{self.rate():,.0f} rows/s"),
            (7, "" if self.in_flight is None else f"{self.in_flight:,} in flight"),
            (3, f"{self.failed:,} failed" if self.failed else ""),
            (6, clock(self.seconds())),
            (4, f"eta {clock(self.remaining())}"),
        ]
        return [(rank, text) for rank, text in told if text]


def clock(seconds: float | None) -> str:
    """`0:03:20`."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def fitting(parts: Sequence[tuple[int, str]], width: int) -> str:
    """As many of the ranked texts as fit into so many columns, in their order; always the one with the lowest rank."""
    kept = list(parts)
    while len(kept) > 1 and len(SPACE.join(text for _, text in kept)) > width:
        kept.remove(max(kept))
    return SPACE.join(text for _, text in kept)


class Plain:
    """Lines for logs: the first shard, then every 10 s, then the last."""

    def __init__(self) -> None:
        """Start with nothing shown."""
        self._counts = _Counts()
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Print it. If nobody reads the output (a closed pipe), nothing happens."""
        with contextlib.suppress(OSError, ValueError):
            print(escaped(hide(text)), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Print it if it takes longer than a moment."""
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
        self._counts.begin(shards, done, rows)
        known = "" if rows is None else f", {counted(rows, 'row')}"
        self.say(
            f"predicting {counted(shards - done, 'shard')}{known}"
            + (f" ({done:,} of {shards:,} done before)" if done else "")
        )

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Print a line if the last one is old enough, or if nothing remains to be done."""
        counts = self._counts
        counts.add(in_flight, receipt, failure)
        if (receipt is None and failure is None) or (not self._is_due(self._shown) and counts.done < counts.shards):
            return
        self._print_counts()

    def move(self, rows: int) -> None:
        """Print a line if the last one, or the start, is long enough ago."""
        self._counts.moving = rows
        if self._counts.shards and self._is_due(max(self._shown, self._counts.started)):
            self._print_counts()

    def _is_due(self, since: float) -> bool:
        return time.monotonic() - since >= PLAIN_EVERY

    def _print_counts(self) -> None:
        counts = self._counts
        self._shown = time.monotonic()
        in_flight = "" if counts.in_flight is None else f", {counts.in_flight} in flight"
        failed = f", {counts.failed} failed" if counts.failed else ""
        self.say(
            f"{counts.done:,}/{counts.shards:,} shards, {counts.rows:,} rows, {counts.rate():,.0f} rows/s{in_flight}{failed}"
        )

    def close(self) -> None:
        """Nothing to restore."""


class Bar:
    """A live bar: one line, however narrow the terminal is."""

    def __init__(self, console: Console | None = None) -> None:
        """Make the bar; it appears with `start`.

        Args:
            console: Where it is drawn, if not on stderr.
        """
        from rich.console import Console
        from rich.live import Live
        from rich.progress import Progress as RichProgress
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._counts = _Counts()
        self._console = console or Console(stderr=True)
        what = Column(no_wrap=True, overflow="ellipsis")
        self._before = RichProgress(
            SpinnerColumn(), TextColumn("{task.description}", markup=False, table_column=what), TimeElapsedColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._bar = Live(get_renderable=self._line, console=self._console)

    def _line(self) -> RenderableType:
        """The bar and the counts, drawn several times a second. The bar gets the columns that the counts leave."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        counts, width = self._counts, self._console.width
        told = fitting(counts.parts(), width - LEAST_BAR - 1)
        bar = ProgressBar(max(1, counts.shards), counts.done, width=max(1, min(MOST_BAR, width - len(told) - 1)))
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(told, no_wrap=True, overflow="ellipsis"))
        return line

    def say(self, text: str) -> None:
        """Print it above the bar."""
        with contextlib.suppress(OSError, ValueError):
            self._console.print(marked(escaped(hide(text))), highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Show a line with the time that it takes. Each of several at once has its line."""
        if not self._bar.is_started:
            self._before.start()
        task = self._before.add_task(what, total=None)
        try:
            yield
        finally:
            self._before.remove_task(task)

    def start(self, shards: int, done: int, rows: int | None) -> None:
        """Show the bar."""
        self._counts = _Counts()
        self._counts.begin(shards, done, rows)
        self._before.stop()
        self._bar.start()

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        """Count it; the bar shows it when it is drawn next."""
        self._counts.add(in_flight, receipt, failure)

    def move(self, rows: int) -> None:
        """Count these rows; the bar shows them when it is drawn next."""
        self._counts.moving = rows

    def close(self) -> None:
        """Stop the bar where it stands."""
        self._before.stop()
        self._bar.stop()
