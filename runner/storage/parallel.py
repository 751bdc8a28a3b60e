"""Runs small requests to a storage in several threads, and returns the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = 16
AHEAD = 2  # requests per thread that are submitted before the oldest answer is yielded

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def map_in_threads(
    function: Callable[[Item], Answer], items: Iterable[Item], threads: int = THREADS
) -> Iterator[Answer]:
    """Yield `function(item)` for each item, in order, computed in threads. Only a few answers are held, however many items there are."""
    asked: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            asked.append(pool.submit(function, item))
            if len(asked) >= AHEAD * threads:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
