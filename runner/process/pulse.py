"""How far a call is while it runs: a shard may take an hour, and its receipt comes at the end.

This is for people only. What is told here may be late or lost; nothing is counted by it, and what goes wrong with it is nobody's error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from runner.types import unseen

EVERY_SECONDS = 1.0  # between two times that a call is told of, at least


class Pulse:
    """Counts the rows of the one call that this process is at."""

    def __init__(self) -> None:
        """Nobody listens."""
        self.begin(unseen)

    def begin(self, tell: Callable[[int], object]) -> None:
        """Count from 0, for a new call and whoever wants to know of it."""
        self._tell, self._rows, self._told = tell, 0, time.monotonic()

    def add(self, rows: int) -> None:
        """Count a batch that has been predicted, and tell if it is time."""
        self._rows += rows
        if (now := time.monotonic()) - self._told >= EVERY_SECONDS:
            self._told = now
            with contextlib.suppress(Exception):
                self._tell(self._rows)


PULSE = Pulse()  # of this process, which is at one call at a time


class Moving:
    """The rows of all calls in flight, as far as they have been told, for whoever shows them."""

    def __init__(self, show: Callable[[int], object] = unseen) -> None:
        """Nothing is in flight."""
        self._show = show
        self._rows: dict[int, int] = {}

    def told(self, ticket: int, rows: int) -> None:
        """So many rows of this call have been predicted so far."""
        self._rows[ticket] = rows
        self._show(sum(self._rows.values()))

    def over(self, ticket: int) -> None:
        """A call has ended, well or not: receipts tell of its rows from now on."""
        if self._rows.pop(ticket, None) is not None:
            self._show(sum(self._rows.values()))
