"""The classic Ray Core program: the model put once, one task per file, which is read whole into pandas.

python classic_tasks.py IN OUT MODEL
"""

from __future__ import annotations

import time
from typing import Any

import ray

from benchmarks.common import arguments, finish, one_thread, predict_pandas, start_ray
from benchmarks.predictors import MODELS


@ray.remote  # type: ignore[untyped-decorator]
def predict_shard(model: Any, file: str, out: str, name: str) -> int:
    """One task: read, predict, write, return only the size."""
    one_thread()
    return predict_pandas(file, out, MODELS[name], model)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    started = time.perf_counter()
    model = ray.put(given.model.load())
    ray.get([predict_shard.remote(model, file, given.out, given.name) for file in given.files])
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
