"""Ray itself: start, one empty task, stop. Predicts nothing; whole processes on Ray cannot be faster.

python bare_ray.py
"""

from __future__ import annotations

import time

import ray

from benchmarks.common import finish, start_ray


@ray.remote  # type: ignore[untyped-decorator]
def nothing() -> None:
    """An empty task."""


def main() -> None:
    """Run it."""
    start_ray()
    started = time.perf_counter()
    ray.get(nothing.remote())
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
