"""Ray Data: only the needed columns, NumPy batches, tasks for the trivial model, an actor pool for the real one.

python ray_data.py IN OUT [taxi|mlp]
"""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.data

from benchmarks.common import WORKLOADS, Arguments, arguments, finish, one_thread, start_ray


class Predictor:
    """What an actor of the pool holds."""

    def __init__(self, name: str) -> None:
        """Load the model."""
        self.model = WORKLOADS[name].load()
        one_thread()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predict one batch."""
        return self.model(batch)


def predicted(given: Arguments) -> Any:
    """The dataset of predictions, not yet computed."""
    workload = given.workload
    rows = ray.data.read_parquet(given.files, columns=list(workload.columns))
    options: dict[str, Any] = {"batch_format": "numpy", "batch_size": workload.batch_size}
    if given.name == "taxi":
        return rows.map_batches(workload.load(), **options)
    # One actor on one core: with an actor on each, no core is left to read and the job never ends. Half a core each
    # lets two actors and the readers share.
    options |= {"fn_constructor_args": (given.name,), "compute": ray.data.ActorPoolStrategy(size=2), "num_cpus": 0.5}
    return rows.map_batches(Predictor, **options)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    predicted(given).write_parquet(given.out)
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
