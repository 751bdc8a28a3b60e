"""Overlaps reading, predicting and writing: background threads, and short bounded queues between them.

The predictor itself is always called on the thread that asked for predictions.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import lru_cache, partial
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")

DEPTH = 2  # items that a queue holds


class Handover(Generic[T]):
    """A bounded queue from one thread to another, which either of them may end.

    `queue.Queue` cannot do that: a thread that waits for room would wait for ever once nobody reads, and an error of the writing thread
    would not reach the reading one.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._changed = threading.Condition()
        self._held: deque[T] = deque()
        self._ended = self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item, after waiting for room; return `False` if the reading thread has stopped reading."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._held) < DEPTH)
            if not self._left:
                self._held.append(item)
            self._changed.notify_all()
            return not self._left

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more items come. If there is an `error`, the reading thread gets it after the last item."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that nobody reads any more; what is in the queue is dropped."""
        with self._changed:
            self._left = True
            self._held.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield the items, waiting for each, until the writing thread ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._ended)
                if not self._held:
                    break
                item = self._held.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


class ReadAhead(Generic[K, T]):
    """Runs iterators in background threads, ahead of the thread that takes their items. As a context manager, it ends them.

    At most `threads` iterators run at once, each at most `DEPTH` items ahead. An iterator starts only when it is at most `threads`
    places, or `ahead` places where that is more, after the one whose items are being taken. So little is in memory, however many iterators
    there are.
    """

    def __init__(self, sources: Mapping[K, Callable[[], Iterator[T]]], threads: int = 1, ahead: int = 0) -> None:
        """Take functions that make the iterators, by key, in the order in which their items will be taken."""
        self._sources = list(sources.values())
        self._index = {key: i for i, key in enumerate(sources)}
        self._streams: list[Handover[T]] = [Handover() for _ in sources]
        self._threads, self._ahead = threads, max(threads, ahead)
        self._changed = threading.Condition()
        self._begun = self._at = 0

    def __enter__(self) -> ReadAhead[K, T]:
        """Start the threads."""
        for _ in range(min(self._threads, len(self._sources))):
            background(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the iterators that still run, each at its next item."""
        self._move_to(len(self._sources))

    def take(self, key: K) -> Iterator[T]:
        """Yield the items of one iterator; those before it in the order are ended."""
        index = self._index[key]
        self._move_to(index)
        yield from self._streams[index]

    def _move_to(self, index: int) -> None:
        with self._changed:
            for stream in self._streams[self._at : index]:
                stream.leave()
            self._at = index
            self._changed.notify_all()

    def _work(self) -> None:
        while (index := self._next()) is not None:
            fill_queue(self._streams[index], self._sources[index]())

    def _next(self) -> int | None:
        """Wait until the next iterator is near enough to the one being taken; return its index, `None` after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun <= self._at + self._ahead)
            index = max(self._begun, self._at)
            self._begun = index + 1
            return index if index < len(self._sources) else None


def fill_queue(stream: Handover[T], items: Iterator[T]) -> None:
    """Put the items of an iterator into a queue, then its end or its error. An error that is no `Exception` is raised here too."""
    try:
        for item in items:
            if not stream.put(item):
                return
        stream.end()
    except BaseException as error:
        stream.end(error)
        if not isinstance(error, Exception):
            raise


class DaemonThreads:
    """A pool of daemon threads that grows to as many as are busy at once.

    `ThreadPoolExecutor` would keep the process alive until every thread has ended, and it has a fixed size. A new thread for each task
    would cost more: native libraries keep memory for every thread, and set it up anew.
    """

    def __init__(self) -> None:
        """Begin without a thread."""
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def do(self, act: Callable[[], object]) -> None:
        """Run a function, which must not raise, in an idle thread, or in a new one if there is none."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name="background", daemon=True).start()
        self._tasks.put(act)

    def _work(self) -> None:
        while True:
            self._tasks.get()()
            self._idle.release()


@lru_cache(maxsize=1)
def _threads(pid: int) -> DaemonThreads:  # noqa: ARG001 (a fork has none of its parent's threads)
    return DaemonThreads()


def background(act: Callable[[], T]) -> Future[T]:
    """Run a function in a daemon thread; return the future of its result."""
    future: Future[T] = Future()
    _threads(os.getpid()).do(partial(run_into_future, future, act))
    return future


def run_into_future(future: Future[T], act: Callable[[], T]) -> None:
    """Run a function now, and set its result or its error on the future."""
    try:
        future.set_result(act())
    except BaseException as error:
        future.set_exception(error)
