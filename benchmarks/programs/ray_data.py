"""Ray Data: only the needed columns, NumPy batches, tasks for the trivial model, an actor pool for the others.

python ray_data.py IN OUT MODEL
"""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.data

from benchmarks.common import CORES, PREDICTION, Arguments, arguments, finish, one_thread, start_ray
from benchmarks.predictors import MODELS


class Predictor:
    """What an actor of the pool holds."""

    def __init__(self, name: str) -> None:
        """Load the model."""
        self.model = MODELS[name].load()
        one_thread()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predict one batch."""
        return {PREDICTION: self.model(batch)}


def predicted(given: Arguments) -> Any:
    """The dataset of predictions, not yet computed."""
    model = given.model
    rows = ray.data.read_parquet(given.source, columns=list(model.columns))
    options: dict[str, Any] = {"batch_format": "numpy", "batch_size": model.batch_size}
    if not model.has_weights:
        predict = model.load()
        return rows.map_batches(lambda batch: {PREDICTION: predict(batch)}, **options)
    # One actor on one core: with an actor on each, no core is left to read and the job never ends. Half a core each
    # lets two actors and the readers share.
    pool = ray.data.ActorPoolStrategy(size=CORES)
    return rows.map_batches(Predictor, fn_constructor_args=(given.name,), compute=pool, num_cpus=0.5, **options)


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
