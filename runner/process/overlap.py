"""Reading ahead of the predictor and writing behind it: threads, and between them hand-overs that hold little.

The predictor itself stays on the thread that asked for it.
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

DEPTH = 2  # items that a hand-over holds


class Handover(Generic[T]):
    """A short queue from one thread to another; either of them may end it."""

    def __init__(self) -> None:
        """Nothing is held."""
        self._changed = threading.Condition()
        self._held: deque[T] = deque()
        self._ended = self._left = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Hand an item over, waiting for room; `False` once nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._held) < DEPTH)
            if not self._left:
                self._held.append(item)
            self._changed.notify_all()
            return not self._left

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `error` is raised where the items are taken, after the last of them."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._left = True
            self._held.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Yield what is handed over, waiting for it."""
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


class Ahead(Generic[K, T]):
    """Iterators that threads run ahead of whoever takes their items; a context that ends them.

    At most `threads` of them run at once, each a few items ahead, and none that lies more than `threads` after the one whose items
    are being taken: what is held stays small, however many there are.
    """

    def __init__(self, sources: Mapping[K, Callable[[], Iterator[T]]], threads: int = 1) -> None:
        """Take what makes the iterators, in the order in which they will be taken."""
        self._sources = list(sources.values())
        self._index = {key: i for i, key in enumerate(sources)}
        self._streams: list[Handover[T]] = [Handover() for _ in sources]
        self._threads = threads
        self._changed = threading.Condition()
        self._begun = self._at = 0

    def __enter__(self) -> Ahead[K, T]:
        """Begin."""
        for _ in range(min(self._threads, len(self._sources))):
            background(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs, at its next item."""
        self._move_to(len(self._sources))

    def take(self, key: K) -> Iterator[T]:
        """Yield the items of one iterator; those before it are given up."""
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
            fill(self._streams[index], self._sources[index]())

    def _next(self) -> int | None:
        """The iterator to run now; waits until it is near enough."""
        with self._changed:
            self._changed.wait_for(lambda: self._begun <= self._at + self._threads)
            index = max(self._begun, self._at)
            self._begun = index + 1
            return index if index < len(self._sources) else None


def fill(stream: Handover[T], items: Iterator[T]) -> None:
    """Hand over what an iterator yields, and how it ends; what is no `Exception` is raised here too."""
    try:
        for item in items:
            if not stream.put(item):
                return
        stream.end()
    except BaseException as error:
        stream.end(error)
        if not isinstance(error, Exception):
            raise


class Threads:
    """Threads that do one thing after another, as many as there is to do at once; they do not keep the process alive.

    A new thread for each thing would cost more: native libraries keep memory for every thread, and set it up anew.
    """

    def __init__(self) -> None:
        """None is started yet."""
        self._tasks: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._idle = threading.Semaphore(0)

    def do(self, act: Callable[[], object]) -> None:
        """Do something, which must not raise, in a thread that has nothing to do, else in a new one."""
        if not self._idle.acquire(blocking=False):
            threading.Thread(target=self._work, name="background", daemon=True).start()
        self._tasks.put(act)

    def _work(self) -> None:
        while True:
            self._tasks.get()()
            self._idle.release()


@lru_cache(maxsize=1)
def _threads(pid: int) -> Threads:  # noqa: ARG001 (a fork has none of its parent's threads)
    return Threads()


def background(act: Callable[[], T]) -> Future[T]:
    """Start to do something in a thread that does not keep the process alive."""
    future: Future[T] = Future()
    _threads(os.getpid()).do(partial(fulfil, future, act))
    return future


def fulfil(future: Future[T], act: Callable[[], T]) -> None:
    """Do something now; the future has what came of it."""
    try:
        future.set_result(act())
    except BaseException as error:
        future.set_exception(error)
