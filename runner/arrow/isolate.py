"""Find the guilty rows of a batch that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Good(NamedTuple):
    """Rows `start` to `end` of the batch, and what the attempt gave for them."""

    start: int
    end: int
    result: object


class Guilty(NamedTuple):
    """A row of the batch that fails alone, and its error."""

    row: int
    error: Exception


def bisect(rows: int, attempt: Callable[[int, int], object], error: Exception) -> Iterator[Good | Guilty]:
    """Split a failed batch until what fails is single rows; yields in row order, each row exactly once.

    Args:
        rows: Rows of the batch, at least 1.
        attempt: Tries rows `start` to `end` and returns the result or raises.
        error: What the attempt at the whole batch raised.
    """
    if rows == 1:
        yield Guilty(0, error)
    else:
        yield from _halves(0, rows, attempt)


def _halves(start: int, end: int, attempt: Callable[[int, int], object]) -> Iterator[Good | Guilty]:
    middle = (start + end) // 2
    yield from _try(start, middle, attempt)
    yield from _try(middle, end, attempt)


def _try(start: int, end: int, attempt: Callable[[int, int], object]) -> Iterator[Good | Guilty]:
    try:
        result = attempt(start, end)
    except Exception as error:
        failed = error
    else:
        yield Good(start, end, result)
        return
    # Not inside of `except`: an error of a smaller piece would seem to have been raised while this one was handled.
    if end - start == 1:
        yield Guilty(start, failed)
    else:
        yield from _halves(start, end, attempt)
