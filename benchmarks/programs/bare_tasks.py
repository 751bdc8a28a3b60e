"""Bare Ray tasks that stream the needed columns: what is left of ours without plan, commit protocol, receipts and report.

python bare_tasks.py IN OUT MODEL
"""

from __future__ import annotations

import time
from typing import Any

import ray

from benchmarks.common import arguments, finish, one_thread, predict_stream, start_ray
from benchmarks.predictors import MODELS


@ray.remote  # type: ignore[untyped-decorator]
def predict_shard(model: Any, file: str, out: str, name: str) -> int:
    """One task: stream a file."""
    one_thread()
    return predict_stream(file, out, MODELS[name], model)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    model = ray.put(given.model.load())
    files = given.files
    # Ours has probed one batch before its clock runs: one worker is up there, so one is up here.
    ray.get(predict_shard.remote(model, files[0], given.out, given.name))
    started = time.perf_counter()
    ray.get([predict_shard.remote(model, file, given.out, given.name) for file in files])
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
