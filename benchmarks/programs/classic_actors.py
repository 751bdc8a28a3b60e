"""The classic Ray Core program with a pool of actors that each hold the model.

python classic_actors.py IN OUT [taxi|mlp]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import ray
from ray.util.actor_pool import ActorPool

from benchmarks.common import CORES, WORKLOADS, arguments, finish, one_thread, start_ray


@ray.remote
class BatchPredictor:
    """An actor whose constructor receives the model once."""

    def __init__(self, model: Any, out: str, name: str) -> None:
        """Keep the model."""
        one_thread()
        self.model, self.out, self.columns = model, out, WORKLOADS[name].columns

    def predict(self, file: str) -> int:
        """One call: read, predict, write, return only the size."""
        table = pq.read_table(file).to_pandas()
        predictions = pd.DataFrame(self.model({column: table[column].to_numpy() for column in self.columns}))
        predictions.to_parquet(f"{self.out}/{Path(file).name}", index=False)
        return len(predictions)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    started = time.perf_counter()
    model = ray.put(given.workload.load())
    actors = [BatchPredictor.remote(model, given.out, given.name) for _ in range(CORES)]  # type: ignore[attr-defined]
    for _ in ActorPool(actors).map_unordered(lambda actor, file: actor.predict.remote(file), given.files):
        pass
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
