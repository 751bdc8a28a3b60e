"""The batches of one shard, and where in which input each row stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from runner.arrow.batches import rebatch
from runner.ledger.quarantine import BadRow, Budget, unreadable
from runner.storage.locations import is_skipped
from runner.storage.transience import is_transient
from runner.types import FailureKind, Fragment, Reader, Unreadable
from runner.worker.trouble import Trouble, in_one_line

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_ROWS = 3  # bad rows that a refusal describes


def not_skipped(fragments: Sequence[Fragment], skip: Sequence[str]) -> list[Fragment]:
    """The fragments of those files that no path or pattern of `errors.skip_files` names."""
    return [fragment for fragment in fragments if not is_skipped(fragment.input.name, skip)]


class Rows:
    """The batches of a shard. It remembers which fragment each row came from.

    Attributes:
        seconds: Spent waiting for what is read.
        unreadable: The rows that could not be parsed, so far.
    """

    def __init__(
        self,
        reader: Reader,
        read: Callable[[Fragment], Iterator[pa.Table | Unreadable]],
        fragments: Sequence[Fragment],
        batch_size: int,
        budget: Budget | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            reader: Knows the number of each row within its input.
            read: Yields the tables of a fragment.
            fragments: What the shard consists of.
            batch_size: Rows of a batch; the last one may be shorter.
            budget: How many rows may be bad; `None` allows none.
        """
        self.seconds = 0.0
        self.unreadable: list[BadRow] = []
        self._budget = budget
        self._reader, self._read, self._fragments, self._batch_size = reader, read, fragments, batch_size
        self._counts: list[int] = []
        self._placed: _Placed | None = None
        self._placing = threading.Lock()  # the predictor's thread and the writer's ask for places

    def batches(self) -> Iterator[pa.Table]:
        """Yield batches, counted from the shard's start.

        Raises:
            Trouble: A fragment cannot be read, or too many of its rows cannot be parsed.
        """
        batches = rebatch(self._tables(), self._batch_size)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _tables(self) -> Iterator[pa.Table]:
        for fragment in self._fragments:
            self._counts.append(0)
            try:
                for table in self._read(fragment):
                    if isinstance(table, Unreadable):
                        self._put_aside(unreadable(fragment, table))
                        continue
                    self._counts[-1] += table.num_rows
                    yield table
            except Trouble:
                raise
            except Exception as error:
                _raise_unreadable(fragment, error)

    def _put_aside(self, row: BadRow) -> None:
        self.unreadable.append(row)
        bad, seen = len(self.unreadable), sum(self._counts) + len(self.unreadable)
        if self._budget is None or self._budget.passed(bad, seen):
            first = "; ".join(each.describe() for each in self.unreadable[:SHOWN_ROWS])
            raise Trouble("data", first if self._budget is None else f"{self._budget.arithmetic(bad, seen)}: {first}")

    def place(self, row: int) -> tuple[Fragment, int]:
        """The fragment that a row of the shard came from, and its number within the file."""
        for fragment, count in zip(self._fragments, self._counts, strict=False):
            if row < count:
                with self._placing:
                    return fragment, self._number(fragment, row)
            row -= count
        raise IndexError(row)

    def _number(self, fragment: Fragment, row: int) -> int:
        """The number within its file of a row of a fragment.

        Bad rows are mostly asked for in ascending order. So the file is read on from the row before: reading it from its beginning for
        each of a thousand bad rows would cost more than predicting them.
        """
        before, self._placed = self._placed, None  # of no use any more if reading fails
        if before is None or before.fragment is not fragment or before.next > row:
            before = _Placed(fragment, 0, iter(self._reader.positions(fragment)))
        number = next(islice(before.numbers, row - before.next, None))
        self._placed = _Placed(fragment, row + 1, before.numbers)
        return number

    def where_from(self, start: int) -> Callable[[int], str]:
        """Returns a function that names the place of a row for people. Its rows are counted from row `start` of the shard."""

        def where(row: int) -> str:
            fragment, number = self.place(start + row)
            return f"{fragment.input.name} row {number}"

        return where


class _Placed(NamedTuple):
    """How far the numbers of a fragment's rows have been read.

    Attributes:
        fragment: The one.
        next: Its first row whose number has not been read.
        numbers: The numbers of this row and of all that follow, within the file.
    """

    fragment: Fragment
    next: int
    numbers: Iterator[int]


def _raise_unreadable(fragment: Fragment, error: Exception) -> NoReturn:
    refused: FailureKind = "storage" if isinstance(error, PermissionError) else "data"
    kind: FailureKind = "transient" if is_transient(error) else refused
    gone = " (gone since it was listed)" if isinstance(error, FileNotFoundError) else ""
    raise Trouble(kind, f"{fragment.input.name} cannot be read{gone}: {in_one_line(error)}") from error
