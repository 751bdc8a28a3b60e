"""Runs coroutines on the one event loop of this process, on a thread of its own, until the process ends.

A predictor may keep a client from batch to batch, and such a client belongs to one loop. So the same loop serves all calls. It also runs
between the calls, when a client answers pings and closes connections that are no longer used. A loop on the caller's own thread would not
do: a notebook runs one there already, and a thread has room for one only.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
CLOSING_SECONDS = 2.0  # that tasks get to end when the process ends


class EventLoop:
    """A loop that runs on its own thread."""

    def __init__(self) -> None:
        """Start it."""
        self._running: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(target=self._live, name="event loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for what a coroutine returns; if the waiting is broken off, the coroutine is cancelled.

        Raises:
            Exception: Whatever the coroutine raises.
        """
        import asyncio

        future = asyncio.run_coroutine_threadsafe(coroutine, self._running.result())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, close the loop, and wait for that a moment."""
        if self._thread.is_alive():  # in a fork it is not
            self._running.result().call_soon_threadsafe(self._closing.set)
            self._thread.join(CLOSING_SECONDS)

    def _live(self) -> None:
        import asyncio

        with asyncio.Runner() as runner:  # whose end cancels tasks, and closes generators, threads and the loop
            runner.run(self._until_closed())

    async def _until_closed(self) -> None:
        import asyncio

        self._closing = asyncio.Event()
        self._running.set_result(asyncio.get_running_loop())
        await self._closing.wait()


@lru_cache(maxsize=1)
def _event_loop(pid: int) -> EventLoop:  # noqa: ARG001 (a fork has no loop: it has none of its parent's threads)
    loop = EventLoop()
    atexit.register(loop.close)
    return loop


def event_loop() -> EventLoop:
    """Return the event loop of this process; it is started when it is first needed."""
    return _event_loop(os.getpid())
