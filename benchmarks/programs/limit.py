"""The limit: one bare process per core that streams the needed columns. No Ray, no protocol, no retry, no report.

python limit.py IN OUT MODEL
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.pool import Pool
from typing import TYPE_CHECKING

from benchmarks.common import CORES, arguments, finish, one_thread, predict_stream
from benchmarks.predictors import MODELS

if TYPE_CHECKING:
    from benchmarks.predictors import Predict

_model: list[Predict] = []  # of this process


def start(name: str) -> None:
    """Load the model, and what predicting imports, before the clock runs."""
    import pyarrow.parquet  # noqa: F401

    _model.append(MODELS[name].load())
    one_thread()


def predict(file: str, out: str, name: str) -> int:
    """Stream one file."""
    return predict_stream(file, out, MODELS[name], _model[0])


def ready(pool: Pool) -> None:
    """Wait until every process has loaded its model."""
    pool.map(time.sleep, [0.2] * CORES, chunksize=1)


def main() -> None:
    """Run it."""
    given = arguments()
    with multiprocessing.get_context("spawn").Pool(CORES, start, (given.name,)) as pool:
        ready(pool)
        started = time.perf_counter()
        pool.starmap(predict, [(file, given.out, given.name) for file in given.files], chunksize=1)
        finish(started)


if __name__ == "__main__":
    main()
