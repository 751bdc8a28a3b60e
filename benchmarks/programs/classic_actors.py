"""The classic Ray Core program with a pool of actors that each hold the model.

python classic_actors.py IN OUT MODEL
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util.actor_pool import ActorPool

from benchmarks.common import CORES, arguments, finish, one_thread, predict_pandas, start_ray
from benchmarks.predictors import MODELS


@ray.remote
class BatchPredictor:
    """An actor whose constructor receives the model once."""

    def __init__(self, model: Any, out: str, name: str) -> None:
        """Keep the model."""
        one_thread()
        self.model, self.out, self.name = model, out, name

    def predict(self, file: str) -> int:
        """One call: read, predict, write, return only the size."""
        return predict_pandas(file, self.out, MODELS[self.name], self.model)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    started = time.perf_counter()
    model = ray.put(given.model.load())
    actors = [BatchPredictor.remote(model, given.out, given.name) for _ in range(CORES)]  # type: ignore[attr-defined]
    for _ in ActorPool(actors).map_unordered(lambda actor, file: actor.predict.remote(file), given.files):
        pass
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
