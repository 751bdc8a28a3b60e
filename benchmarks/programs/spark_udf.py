"""Spark on this machine: `predict_batch_udf`, one Python worker per core.

python spark_udf.py IN OUT MODEL
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import struct
from pyspark.sql.types import ArrayType, ByteType, FloatType

from benchmarks.common import CORES, PREDICTION, Arguments, arguments, finish, one_thread
from benchmarks.predictors import MODELS

# predict_batch_udf knows no booleans.
TYPES = {"bool": ByteType(), "float": FloatType(), "vector": ArrayType(FloatType())}


def make_predict(name: str) -> Callable[[Any], Any]:
    """What Spark calls once in each Python worker: load the model, return a function of a matrix."""
    model = MODELS[name]
    predict = model.load()
    one_thread()

    def call(rows: Any) -> Any:
        columns = rows.reshape(len(rows), -1)
        predictions = predict({column: columns[:, i] for i, column in enumerate(model.columns)})
        return predictions.astype("int8") if model.kind == "bool" else predictions

    return call


def session(batch_size: int) -> SparkSession:
    """A Spark of two threads in one JVM, its workers in this very Python."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    options = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "4g",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(batch_size),
        "spark.sql.parquet.compression.codec": "zstd",
    }
    return SparkSession.builder.master(f"local[{CORES}]").config(map=options).getOrCreate()


def predicted(spark: SparkSession, given: Arguments) -> DataFrame:
    """The frame of predictions, not yet computed."""
    model, name = given.model, given.name
    udf = predict_batch_udf(lambda: make_predict(name), return_type=TYPES[model.kind], batch_size=model.batch_size)
    columns = list(model.columns)
    rows = spark.read.parquet(given.source)
    return rows.select(udf(struct(*columns) if len(columns) > 1 else columns[0]).alias(PREDICTION))


def main() -> None:
    """Run it."""
    given = arguments()
    spark = session(given.model.batch_size)
    started = time.perf_counter()
    predicted(spark, given).write.mode("overwrite").parquet(given.out)
    finish(started)
    spark.stop()


if __name__ == "__main__":
    main()
