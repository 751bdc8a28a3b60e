"""Daft's native runner: `daft.func.batch` for the trivial model, `daft.cls` with two workers for the others.

python daft_native.py IN OUT MODEL
"""

from __future__ import annotations

import os
import time
from typing import Any

import daft
from daft import DataType
from daft.io import IOConfig, S3Config

from benchmarks.common import CORES, PREDICTION, Arguments, arguments, finish, one_thread
from benchmarks.predictors import EMBEDDING, MODELS

TYPES = {
    "bool": DataType.bool(),
    "float": DataType.float32(),
    "vector": DataType.fixed_size_list(DataType.float32(), EMBEDDING),
}


def arrays(name: str, columns: tuple[daft.Series, ...]) -> dict[str, Any]:
    """A batch as NumPy arrays."""
    return {
        column: series.to_arrow().to_numpy(zero_copy_only=False)
        for column, series in zip(MODELS[name].columns, columns, strict=True)
    }


def stateless(name: str) -> Any:
    """The model as a function, in Daft's own threads."""
    model = MODELS[name]
    predict = model.load()

    def call(*columns: daft.Series) -> Any:
        return predict(arrays(name, columns))

    return daft.func.batch(return_dtype=TYPES[model.kind], batch_size=model.batch_size, use_process=False)(call)


def stateful(name: str) -> Any:
    """The model in a pool of workers that load it once each."""
    model = MODELS[name]

    class Predictor:
        def __init__(self) -> None:
            self.predict = MODELS[name].load()
            one_thread()

        @daft.method.batch(return_dtype=TYPES[model.kind], batch_size=model.batch_size)
        def call(self, *columns: daft.Series) -> Any:
            return self.predict(arrays(name, columns))

    return daft.cls(Predictor, max_concurrency=CORES, use_process=True)().call


def storage() -> IOConfig:
    """Object storage as the environment names it; Daft does not read the endpoint from there."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    return IOConfig(s3=S3Config.from_env().replace(endpoint_url=endpoint)) if endpoint else IOConfig()


def predicted(given: Arguments, storage: IOConfig) -> daft.DataFrame:
    """The frame of predictions, not yet computed."""
    rows = daft.read_parquet(given.source, io_config=storage)
    make = stateful if given.model.has_weights else stateless
    return rows.select(make(given.name)(*(rows[column] for column in given.model.columns)).alias(PREDICTION))


def main() -> None:
    """Run it."""
    given = arguments()
    daft.set_runner_native(num_threads=CORES)
    started = time.perf_counter()
    predicted(given, storage()).write_parquet(given.out, compression="zstd", io_config=storage())
    finish(started)


if __name__ == "__main__":
    main()
