"""The classic Ray Core program: the model put once, one task per file, which is read whole into pandas.

python classic_tasks.py IN OUT [taxi|mlp]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import ray

from benchmarks.common import WORKLOADS, arguments, finish, one_thread, start_ray


@ray.remote  # type: ignore[untyped-decorator]
def predict_shard(model: Any, file: str, out: str, name: str) -> int:
    """One task: read, predict, write, return only the size."""
    one_thread()
    table = pq.read_table(file).to_pandas()
    columns = WORKLOADS[name].columns
    predictions = pd.DataFrame(model({column: table[column].to_numpy() for column in columns}))
    predictions.to_parquet(f"{out}/{Path(file).name}", index=False)
    return len(predictions)


def main() -> None:
    """Run it."""
    given = arguments()
    start_ray()
    started = time.perf_counter()
    model = ray.put(given.workload.load())
    ray.get([predict_shard.remote(model, file, given.out, given.name) for file in given.files])
    finish(started)
    ray.shutdown()


if __name__ == "__main__":
    main()
