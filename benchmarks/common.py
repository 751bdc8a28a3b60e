"""What the programs share: their arguments, a bare reader and writer, and the line that each prints."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.predictors import MODELS, Model

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    from benchmarks.predictors import Array, Arrays, Predict

CORES = 2
PREDICTION = "prediction"  # the column that every program writes


@dataclass(frozen=True)
class Arguments:
    """`python program.py IN OUT MODEL`.

    Attributes:
        source: The input: a folder, or a URI.
        out: A folder, which exists; or a URI.
        name: Of the model.
    """

    source: str
    out: str
    name: str

    @property
    def model(self) -> Model:
        """What to predict with."""
        return MODELS[self.name]

    @property
    def files(self) -> list[str]:
        """Of the input, as local paths or URIs."""
        from pyarrow.fs import FileSelector

        store, folder = located(self.source)
        return sorted(f"{self.source}/{each.base_name}" for each in store.get_file_info(FileSelector(folder)))


def arguments() -> Arguments:
    """Read the command line and make the output folder."""
    given = Arguments(*sys.argv[1:])
    if not is_remote(given.out):
        Path(given.out).mkdir(parents=True)
    return given


def is_remote(path: str) -> bool:
    """Whether it is on object storage."""
    return "://" in path


def located(path: str) -> tuple[FileSystem, str]:
    """Its file system, one per process, and the path there."""
    scheme, separator, there = path.rpartition("://")
    return _store(scheme + separator + there.partition("/")[0] if separator else "/"), there


@functools.cache
def _store(root: str) -> FileSystem:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(root)[0]


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


def to_arrow(predictions: Array) -> pa.Array:
    """Scalars, or lists of one length."""
    import pyarrow as pa

    if predictions.ndim == 1:
        return pa.array(predictions)
    return pa.FixedSizeListArray.from_arrays(predictions.reshape(-1), predictions.shape[1])


def predict_pandas(file: str, out: str, model: Model, predict: Predict) -> int:
    """The classic program's shard: the whole file to pandas, predict, write. Returns its rows."""
    import pandas as pd
    import pyarrow.parquet as pq

    table = pq.read_table(file).to_pandas()
    predictions = predict({column: table[column].to_numpy() for column in model.columns})
    column = predictions if predictions.ndim == 1 else list(predictions)
    pd.DataFrame({PREDICTION: column}).to_parquet(_beside(out, file), index=False)
    return len(predictions)


def predict_stream(file: str, out: str, model: Model, predict: Predict) -> int:
    """Stream the needed columns of a file through the model; no protocol, no fsync. Returns its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    store, target = located(_beside(out, file))
    writer, rows = None, 0
    for batch in _stream(file, model):
        predictions = pa.table({PREDICTION: to_arrow(predict(arrays(batch)))})
        if writer is None:
            writer = pq.ParquetWriter(target, predictions.schema, compression="zstd", filesystem=store)
        writer.write_table(predictions)
        rows += predictions.num_rows
    if writer is not None:
        writer.close()
    return rows


def _stream(file: str, model: Model) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    store, path = located(file)
    # Requests to object storage are merged and sent ahead; a local file is read as it is needed.
    with pq.ParquetFile(path, filesystem=store, pre_buffer=is_remote(file)) as parquet:
        yield from parquet.iter_batches(model.batch_size, columns=list(model.columns), use_threads=False)


def _beside(out: str, file: str) -> str:
    return f"{out}/{file.rpartition('/')[2]}"


def start_ray() -> None:
    """A private Ray without a dashboard, as ours has it."""
    import ray

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    ray.init(address="local", include_dashboard=False, configure_logging=False, log_to_driver=False)
