"""Reports how many rows a running call has predicted: a shard may take an hour, and its receipt comes at the end.

This is for people only. A number may be late or lost. Nothing else depends on it, and an error here changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from runner.types import unseen

EVERY_SECONDS = 1.0  # at least, between two reports of a call


class Pulse:
    """Counts the rows of the call that this process executes."""

    def __init__(self) -> None:
        """Report to nobody."""
        self.begin(unseen)

    def begin(self, tell: Callable[[int], object]) -> None:
        """Count from 0 for a new call, and report its rows to `tell`."""
        self._tell, self._rows, self._told = tell, 0, time.monotonic()

    def add(self, rows: int) -> None:
        """Count a predicted batch, and report the rows if it is time."""
        self._rows += rows
        if (now := time.monotonic()) - self._told >= EVERY_SECONDS:
            self._told = now
            with contextlib.suppress(Exception):
                self._tell(self._rows)


PULSE = Pulse()  # of this process, which is at one call at a time


class Moving:
    """The reported rows of all calls in flight. Their sum is shown whenever it changes."""

    def __init__(self, show: Callable[[int], object] = unseen) -> None:
        """Nothing is in flight. `show` is told the sum."""
        self._show = show
        self._rows: dict[int, int] = {}

    def note(self, ticket: int, rows: int) -> None:
        """Note how many rows of a call have been predicted so far."""
        self._rows[ticket] = rows
        self._show(sum(self._rows.values()))

    def over(self, ticket: int) -> None:
        """Forget a call that has ended, well or not: its receipts count its rows from now on."""
        if self._rows.pop(ticket, None) is not None:
            self._show(sum(self._rows.values()))
