"""Small requests to a storage, several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 16
AHEAD = 2  # for each thread: what is asked for before the first answer is taken

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def mapped(function: Callable[[Item], Answer], items: Iterable[Item], threads: int = THREADS) -> Iterator[Answer]:
    """`map` in threads, in order; however many items there are, only a few answers are held."""
    asked: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            asked.append(pool.submit(function, item))
            if len(asked) >= AHEAD * threads:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
