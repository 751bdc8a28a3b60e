"""What the programs share: their arguments, the two models, a bare writer, and the line that each prints."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    Arrays = dict[str, np.ndarray[Any, Any]]
    Predict = Callable[[Arrays], Arrays]

CORES = 2
FEATURES = [
    "passenger_count", "trip_distance", "pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude",
    "fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "total_amount",
]  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What is predicted.

    Attributes:
        columns: The model's input.
        batch_size: Rows per call of the model.
        load: Returns the model, a function of a dict of arrays.
    """

    columns: Sequence[str]
    batch_size: int
    load: Callable[[], Predict]


def load_taxi() -> Predict:
    """Whether the number of passengers is even: next to no work, so that reading dominates."""
    return lambda batch: {"score": batch["passenger_count"] % 2 == 0}


def network() -> torch.nn.Module:
    """12 features through two hidden layers of 256, with weights that are the same everywhere."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(len(FEATURES), 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    )  # fmt: skip


@dataclass(frozen=True)
class Mlp:
    """The network behind the interface of a batch of arrays; a class, so that every framework can ship it."""

    module: torch.nn.Module

    def __call__(self, batch: Arrays) -> Arrays:
        """Predict one batch."""
        import numpy as np
        import torch

        rows = np.stack([batch[name].astype("float32", copy=False) for name in FEATURES], axis=1)
        with torch.inference_mode():
            return {"prediction": self.module(torch.from_numpy(rows))[:, 0].numpy()}


def load_mlp() -> Predict:
    """The model-bound workload."""
    return Mlp(network().eval())


WORKLOADS = {
    "taxi": Workload(["passenger_count"], 65_536, load_taxi),
    "mlp": Workload(FEATURES, 16_384, load_mlp),
}


@dataclass(frozen=True)
class Arguments:
    """`python program.py IN OUT [WORKLOAD]`."""

    files: list[str]
    out: str
    name: str

    @property
    def workload(self) -> Workload:
        """What to predict."""
        return WORKLOADS[self.name]


def arguments() -> Arguments:
    """Read the command line and make the output folder."""
    source, out, *name = sys.argv[1:]
    Path(out).mkdir(parents=True)
    return Arguments(sorted(map(str, Path(source).glob("*.parquet"))), out, name[0] if name else "taxi")


def finish(started: float) -> None:
    """Print the seconds since `started`, which is what a program is for."""
    print(json.dumps({"seconds": time.perf_counter() - started}))


def one_thread() -> None:
    """One thread for each library in this process: there are as many processes as cores."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def arrays(batch: pa.RecordBatch) -> Arrays:
    """A batch as NumPy arrays."""
    return {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}


def stream(file: str, workload: Workload) -> Iterator[pa.RecordBatch]:
    """The needed columns of a file, batch by batch."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        yield from parquet.iter_batches(workload.batch_size, columns=list(workload.columns), use_threads=False)


def predict_file(file: str, out: str, workload: Workload, predict: Predict) -> int:
    """Stream a file through the model into a file of the same name; no protocol, no fsync. Returns its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, rows = None, 0
    for batch in stream(file, workload):
        predictions = pa.table(dict(predict(arrays(batch))))
        if writer is None:
            writer = pq.ParquetWriter(f"{out}/{Path(file).name}", predictions.schema, compression="zstd")
        writer.write_table(predictions)
        rows += predictions.num_rows
    if writer is not None:
        writer.close()
    return rows


def start_ray() -> None:
    """A private Ray without a dashboard, as ours has it."""
    import ray

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
