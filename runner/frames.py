"""Data frames and Arrow tables from Python: an input is kept in a file whose name is a digest of its rows; predictions are read back."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config.targets import a_kind
from runner.sinks.files import Files as Parts
from runner.sources.files import Files
from runner.types import Sink

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN = (str, os.PathLike, bool, int, float, Mapping)  # a config file could give these, too
ROW_GROUP = 131_072  # rows: a large input becomes several shards


def is_frame(value: Any) -> bool:
    """Whether it is a DataFrame of pandas or polars, an Arrow table, or another object that Arrow can read."""
    return hasattr(value, "__arrow_c_stream__")


def no_table(value: Any) -> str | None:
    """Why a value that holds data cannot be the input; `None` for one that can, and for what a config could give."""
    series = hasattr(value, "to_frame")
    if value is None or isinstance(value, PLAIN) or (is_frame(value) and not series):
        return None
    remedy = " (series.to_frame())" if series else ""
    return f"source: got {a_kind(value)}; expected a DataFrame or an Arrow table{remedy}"


def stored(frame: Any, folder: Path) -> Path:
    """Write a frame to a Parquet file once. The same rows give the same file, so a job that was killed can continue.

    Args:
        frame: Of pandas (an index with a name becomes a column, another is left out), of polars, or of Arrow.
        folder: Where to keep it.
    """
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{uuid.uuid4().hex}"
    try:
        pq.write_table(_table(frame), fresh, row_group_size=ROW_GROUP)
        with fresh.open("rb") as file:
            name = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        kept = folder / f"{name}.parquet"
        if not kept.exists():  # a file that was planned must keep its time
            os.replace(fresh, kept)  # noqa: PTH105
    finally:
        fresh.unlink(missing_ok=True)
    return kept.absolute()


def _table(frame: Any) -> pa.Table:
    import pyarrow as pa

    if not hasattr(frame, "iloc"):
        return pa.table(frame).replace_schema_metadata()
    named = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    return pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata()


def predictions(sink: Sink) -> pa.Table:
    """All rows of a sink's parts, in the order of the input.

    Raises:
        RuntimeError: They are no files.
    """
    import pyarrow as pa

    if not isinstance(sink, Parts):
        raise RuntimeError(
            f"the predictions are no files: {type(sink).__name__} wrote them, read them from where it did"
        )

    source = Files(
        sink.records.root, sink.format, partitioning=None, storage_options=sink.storage_options, allow_empty=True
    )
    files = sorted(source.inputs(), key=lambda file: file.name.rpartition("/")[2])
    fragments, schema = source.inspect(files)
    if schema is None:
        return pa.table({})
    reader = source.reader(schema)
    return pa.concat_tables([schema.empty_table(), *(table for each in fragments for table in reader.read(each))])
