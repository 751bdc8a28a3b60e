"""Ray itself: start, one empty task, stop. Predicts nothing; whole processes on Ray cannot be faster.

python bare_ray.py IN OUT [taxi|mlp]
"""

from __future__ import annotations

import time

import ray

from benchmarks.common import arguments, finish, start_ray


@ray.remote  # type: ignore[untyped-decorator]
def nothing() -> None:
    """An empty task."""


def main() -> None:
    """Run it."""
    arguments()
    start_ray()
    started = time.perf_counter()
    ray.get(nothing.remote())
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
