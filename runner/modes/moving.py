"""How many rows the calls in flight on Ray have predicted: each worker writes its number into Ray's key-value store.

A worker that is busy answers no question. So it writes its rows, once a second at most, into the small key-value store of Ray's control
service, under a key of its own, beside the ticket of its call; and the driver looks there about as often. Ray calls these functions
experimental: where they are missing or fail, rows move when a shard is committed, and nothing else is different.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from functools import partial

from runner.process.overlap import background
from runner.process.pulse import EVERY_SECONDS, Moving
from runner.types import unseen

SHARE = 0.05  # of the driver's time may be spent on reading these numbers

_writing: Future[None] | None = None


def report_rows(pool: str, ticket: int, rows: int) -> None:
    """Report a call's rows, in the background: the call never waits for a slow store, and skips reports rather than queue them."""
    global _writing
    if _writing is None or _writing.done():
        _writing = background(
            partial(_write, f"{_prefix(pool)}{socket.gethostname()}:{os.getpid()}", f"{ticket} {rows}")
        )


def _write(key: str, value: str) -> None:
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key.encode(), value.encode(), overwrite=True)


def _prefix(pool: str) -> str:
    return f"runner:rows:{pool}:"


class RowsInFlight:
    """Reads the numbers on the driver, for one pool."""

    def __init__(self, pool: str = "", show: Callable[[int], object] = unseen) -> None:
        """Take the pool's name, and the function that is told the sum."""
        self._prefix, self._moving = _prefix(pool).encode(), Moving(show)
        self._next = time.monotonic() + EVERY_SECONDS
        self.over = self._moving.over

    def refresh(self, running: Callable[[], Collection[int]]) -> None:
        """Read the numbers of the running calls if it is time. The more calls there are, the less often they are read."""
        if (started := time.monotonic()) < self._next:
            return
        with contextlib.suppress(Exception):
            self._read(running())
        now = time.monotonic()
        self._next = now + max(EVERY_SECONDS, (now - started) / SHARE)

    def _read(self, running: Collection[int]) -> None:
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

        for key in _internal_kv_list(self._prefix):
            ticket, rows = map(int, _internal_kv_get(key).split())
            if ticket in running:  # what a worker wrote of an earlier call stays until it writes of another
                self._moving.note(ticket, rows)

    def close(self) -> None:
        """Delete what the workers wrote."""
        with contextlib.suppress(Exception):
            from ray.experimental.internal_kv import _internal_kv_del

            _internal_kv_del(self._prefix, del_by_prefix=True)
