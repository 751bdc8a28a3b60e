"""Finds the bad rows of a batch that fails: what fails is halved and tried again, until single rows fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa


class Good(NamedTuple):
    """Rows `start` to `end` of a batch, and the result for those of them that are not guilty."""

    start: int
    end: int
    result: object

    def moved(self, rows: int) -> Good:
        """Return the same with its rows counted from `rows` rows further up."""
        return Good(self.start + rows, self.end + rows, self.result)


class Guilty(NamedTuple):
    """A row of a batch that cannot be predicted, and its error."""

    row: int
    error: Exception

    def moved(self, rows: int) -> Guilty:
        """Return the same with its rows counted from `rows` rows further up."""
        return Guilty(self.row + rows, self.error)


class Failed(NamedTuple):
    """Rows `start` to `end` of a batch that fail together: any of them may be guilty."""

    start: int
    end: int
    error: Exception

    def moved(self, rows: int) -> Failed:
        """Return the same with its rows counted from `rows` rows further up."""
        return Failed(self.start + rows, self.end + rows, self.error)


Tried = Good | Guilty | Failed


def isolate(start: int, end: int, attempt: Callable[[int, int], Iterable[Tried]]) -> Iterator[Good | Guilty]:
    """Try rows `start` to `end`, then the halves of what fails, until what fails is a single row.

    Each row is in exactly one of the results, which come in the order of the rows. What was good once is not tried again.

    Args:
        start: The first row.
        end: The row after the last one; at least one row is tried.
        attempt: Tries the rows from the first to the second number, and tells what came of them, in their order.
    """
    for each in attempt(start, end):
        if not isinstance(each, Failed):
            yield each
        elif each.end - each.start == 1:
            yield Guilty(each.start, each.error)
        else:
            middle = (each.start + each.end) // 2
            yield from isolate(each.start, middle, attempt)
            yield from isolate(middle, each.end, attempt)


def without(table: pa.Table, guilty: Sequence[Guilty]) -> pa.Table:
    """Return the table without the guilty rows."""
    import numpy as np

    if not guilty:
        return table
    return table.take(np.delete(np.arange(table.num_rows), [each.row for each in guilty]))
