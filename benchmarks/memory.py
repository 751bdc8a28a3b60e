"""The memory of a process and its descendants over time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import psutil

INTERVAL = 0.2  # seconds between two looks, each of which costs some milliseconds per process


class Sample(NamedTuple):
    """A look.

    Attributes:
        seconds: Since the start.
        size: Bytes: the processes' proportional set sizes together, so that a page shared by several counts once.
    """

    seconds: float
    size: int


@contextlib.contextmanager
def watched(process: int, watch: bool) -> Iterator[list[Sample]]:
    """Look at a process and its descendants until the context ends, if at all; yields the looks, which keep coming."""
    samples: list[Sample] = []
    ended = threading.Event()
    started = time.perf_counter()

    def look() -> None:
        while not ended.wait(INTERVAL):
            samples.append(Sample(time.perf_counter() - started, _size(process)))

    thread = threading.Thread(target=look, name="memory")
    if watch:
        thread.start()
    try:
        yield samples
    finally:
        ended.set()
        if watch:
            thread.join()


def _size(process: int) -> int:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(process)
        return sum(map(_size_alone, [root, *root.children(recursive=True)]))
    return 0


def _size_alone(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # it has ended
        return int(process.memory_full_info().pss)
    return 0
