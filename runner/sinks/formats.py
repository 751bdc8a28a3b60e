"""The file formats of parts: each turns a stream of tables into bytes that depend on nothing else.

No timestamps, no library versions of the moment, fixed row groups: the same predictions give the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

from runner.arrow.batches import rebatch
from runner.arrow.predictions import array_from_numpy, decode_run_ends

if TYPE_CHECKING:
    import pyarrow as pa

MOST_GROUP_ROWS = 131_072
GROUP_BYTES = 64 * 1024**2
VARIABLE_WIDTH = 64
LINES = 8192
PIECE = 1024**2  # bytes that are read at a time
COUNT_BLOCK = 16 * 1024**2  # bytes of CSV that are parsed at once to count rows
MOST_BLOCK = 2**31 - 1  # bytes that pyarrow can take at once
FIELD_ID = b"PARQUET:field_id"  # pyarrow's name for it
ARROW_COMPRESSIONS = ("zstd", "lz4", "none")

Compression = Literal["zstd", "snappy", "gzip", "lz4", "none"]


class Format(Protocol):
    """How one file format is written."""

    def refusal(self, schema: pa.Schema) -> str | None:
        """Why the format cannot hold this schema, `None` if it can."""

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write all tables to a binary file."""

    def count_rows(self, file: IO[bytes]) -> int:
        """Rows of a file, which is read piece by piece from its beginning, wherever it stands."""


def group_rows(schema: pa.Schema) -> int:
    """Rows per row group: about 64 MiB of them, at most 131,072. Only the schema decides, so every part agrees."""
    width = sum(_width(column.type) for column in schema)
    return max(1, min(MOST_GROUP_ROWS, GROUP_BYTES // max(1, width)))


def _width(kind: pa.DataType) -> int:
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    if pa.types.is_struct(kind):
        return sum(_width(kind.field(i).type) for i in range(kind.num_fields))
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return VARIABLE_WIDTH


# ---------------------------------------------------------------- what is written


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as parts hold it: values as they are, not as batches happened to encode them, and no metadata but the ids of fields."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, _stored_type(c.type), metadata=_field_id(c)) for c in schema])


def _field_id(column: pa.Field) -> dict[bytes, bytes] | None:
    """The id by which a table format knows a column: it stands in the Parquet schema."""
    known = (column.metadata or {}).get(FIELD_ID)
    return None if known is None else {FIELD_ID: known}


def _stored_type(kind: pa.DataType) -> pa.DataType:
    """Dictionaries differ from batch to batch, and views share buffers: neither may show in the bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _stored_type(kind.value_type)
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return views.get(kind, kind)


def grouped(schema: pa.Schema, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The tables in the stored schema, regrouped by rows: how they come in pieces does not show."""
    import pyarrow as pa

    for table in rebatch((decode_run_ends(each).cast(schema) for each in tables), group_rows(schema)):
        yield pa.table([_whole(column) for column in table.columns], schema=schema)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """One array without an offset, and with nothing left over under its nulls, of which a nested one may have others inside."""
    import numpy as np
    import pyarrow as pa

    array = pa.concat_arrays([pa.nulls(0, column.type), *column.chunks])
    if array.null_count == 0 and not pa.types.is_nested(array.type):
        return array
    return array.take(array_from_numpy(np.arange(len(array))))


def unwritable(format: Format, schema: pa.Schema) -> list[str]:  # noqa: A002
    """The columns that a format cannot hold, each with its type: found out by writing a null."""
    import pyarrow as pa

    def writes(column: pa.Field) -> bool:
        alone = pa.schema([column])
        try:
            format.write(io.BytesIO(), alone, iter([pa.table([pa.nulls(1, column.type)], schema=alone)]))
        except (pa.ArrowException, NotImplementedError, TypeError):
            return False
        return True

    return [f"{column.name} ({column.type})" for column in stored_schema(schema) if not writes(column)]


def culprit(format: Format, table: pa.Table) -> str | None:  # noqa: A002
    """The column and the row of a batch that a format cannot hold: found out by writing them alone."""

    def fails(part: pa.Table) -> bool:
        try:
            format.write(io.BytesIO(), part.schema, iter([part]))
        except Exception:
            return True
        return False

    for name in table.column_names:
        part, row = table.select([name]), 0
        if part.num_rows and fails(part):
            while part.num_rows > 1:
                half = part.num_rows // 2
                first = fails(part.slice(0, half))
                part, row = (part.slice(0, half), row) if first else (part.slice(half), row + half)
            return f"column {name} ({part.schema.types[0]}), row {row} of its batch"
    return None


@dataclass(frozen=True)
class Parquet:
    """Parquet with fixed row groups."""

    compression: Compression

    def refusal(self, schema: pa.Schema) -> str | None:
        """Empty structs, unions and intervals do not go."""
        found = unwritable(self, schema)
        return f"parquet cannot hold {', '.join(found)}; take sink=arrow or jsonl" if found else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write one row group at a time."""
        import pyarrow.parquet as pq

        stored = stored_schema(schema)
        with pq.ParquetWriter(file, stored, compression=self.compression, store_schema=True) as writer:
            for table in grouped(stored, tables):
                writer.write_table(table, row_group_size=max(1, table.num_rows))

    def count_rows(self, file: IO[bytes]) -> int:
        """From the footer."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file).num_rows)


@dataclass(frozen=True)
class Csv:
    """CSV with a header. An empty cell is null, a quoted empty cell an empty string."""

    def refusal(self, schema: pa.Schema) -> str | None:
        """Cells hold scalars that have a text."""
        import pyarrow as pa

        binary = {pa.binary(), pa.large_binary()}
        raw = [f"{c.name} ({c.type})" for c in stored_schema(schema) if c.type in binary]
        found = raw + unwritable(self, schema)
        return f"csv cannot hold {', '.join(found)}; take sink=parquet, jsonl or arrow" if found else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write batch by batch."""
        from pyarrow import csv

        stored = stored_schema(schema)
        with csv.CSVWriter(file, stored) as writer:
            for table in tables:
                writer.write_table(decode_run_ends(table).cast(stored))

    def count_rows(self, file: IO[bytes]) -> int:
        """By parsing it block by block; in a file of one column, a blank line is a null."""
        import pyarrow as pa
        from pyarrow import csv

        size, block, lock = file.seek(0, os.SEEK_END), COUNT_BLOCK, Lock()
        while True:
            try:
                return self._count_rows(csv, lambda: _FromStart(file, lock), min(block, size + 1))
            except pa.ArrowInvalid as error:  # a row is longer than a block
                if "straddl" not in str(error) or block >= MOST_BLOCK:
                    raise
            block = min(4 * block, MOST_BLOCK)

    def _count_rows(self, csv: Any, start: Callable[[], Any], block: int) -> int:
        """Cells are not converted: what the first block says of types need not hold for the next."""
        import pyarrow as pa

        read, parse = csv.ReadOptions(block_size=block), csv.ParseOptions(newlines_in_values=True)
        names = csv.open_csv(start(), read, parse).schema.names
        reader = csv.open_csv(
            start(),
            read,
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=len(names) > 1),
            csv.ConvertOptions(column_types={names[0]: pa.binary()}, include_columns=names[:1]),
        )
        return sum(batch.num_rows for batch in reader)


class _FromStart:
    """A file, read again from its beginning while an earlier reader of it may still be reading ahead in a thread of its own."""

    closed = False

    def __init__(self, file: IO[bytes], lock: Lock) -> None:
        self._file, self._lock, self._at = file, lock, 0

    def read(self, size: int) -> bytes:
        with self._lock:
            self._file.seek(self._at)
            content = self._file.read(size)
            self._at += len(content)
        return content

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """It stays open for the next."""


@dataclass(frozen=True)
class Jsonl:
    """One JSON object per line; times as ISO 8601, durations in seconds, bytes as base64, NaN and infinities as null."""

    def refusal(self, schema: pa.Schema) -> str | None:
        """Nearly everything has a form."""
        found = unwritable(self, schema)
        return f"jsonl cannot hold {', '.join(found)}; take sink=arrow" if found else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write batch by batch."""
        import pyarrow as pa

        stored = stored_schema(schema)
        spelled = pa.schema([pa.field(column.name, _with_spelled_times(column.type)) for column in stored])
        for table in tables:
            for batch in decode_run_ends(table).cast(stored).cast(spelled).to_batches(max_chunksize=LINES):
                lines = (json.dumps(in_json(row), ensure_ascii=False, allow_nan=False) for row in batch.to_pylist())
                file.write("".join(f"{line}\n" for line in lines).encode())

    def count_rows(self, file: IO[bytes]) -> int:
        """Line by line: JSON escapes line breaks."""
        file.seek(0)
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE), b""))


def _with_spelled_times(kind: pa.DataType) -> pa.DataType:
    """The type with text in place of times in nanoseconds: Python's hold microseconds only."""
    import pyarrow as pa

    if kind == pa.time64("ns"):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_spelled_times(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_with_spelled_times(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_spelled_times(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_spelled_times(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(
            _with_spelled_times(kind.key_type), kind.item_field.with_type(_with_spelled_times(kind.item_type))
        )
    return kind


def in_json(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: in_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [in_json(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@dataclass(frozen=True)
class Arrow:
    """Arrow IPC, the file format."""

    compression: Compression

    def refusal(self, schema: pa.Schema) -> str | None:
        """Everything has a form; not every compression."""
        if self.compression not in ARROW_COMPRESSIONS:
            return f"arrow knows no sink.compression={self.compression}, only {', '.join(ARROW_COMPRESSIONS)}"
        found = unwritable(self, schema)
        return f"arrow cannot hold {', '.join(found)}" if found else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write one record batch at a time."""
        from pyarrow import ipc

        stored = stored_schema(schema)
        options = ipc.IpcWriteOptions(compression=None if self.compression == "none" else self.compression)
        with ipc.new_file(file, stored, options=options) as writer:
            for table in grouped(stored, tables):
                writer.write_table(table)

    def count_rows(self, file: IO[bytes]) -> int:
        """From the record batches."""
        from pyarrow import ipc

        with ipc.open_file(file) as reader:
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
