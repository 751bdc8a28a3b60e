"""The file formats of parts: each turns a stream of tables into bytes that depend on nothing else.

No timestamps, no library versions of the moment, fixed row groups: the same predictions give the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from runner.batches import rebatch

if TYPE_CHECKING:
    import pyarrow as pa

MOST_GROUP_ROWS = 131_072
GROUP_BYTES = 64 * 1024**2
VARIABLE_WIDTH = 64

Compression = Literal["zstd", "snappy", "gzip", "lz4", "none"]


class Format(Protocol):
    """How one file format is written."""

    def refusal(self, schema: pa.Schema) -> str | None:
        """Why the format cannot hold this schema, `None` if it can."""

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write all tables to a binary file."""

    def count_rows(self, content: bytes) -> int:
        """Rows of a file, given its bytes."""


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


@dataclass(frozen=True)
class Parquet:
    """Parquet with fixed row groups."""

    compression: Compression

    def refusal(self, schema: pa.Schema) -> str | None:
        """Anything but an empty struct goes."""
        import pyarrow as pa

        empty = [column.name for column in schema if pa.types.is_struct(column.type) and not column.type.num_fields]
        return f"parquet cannot hold the empty structs {empty}" if empty else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write one row group at a time."""
        import pyarrow.parquet as pq

        rows = group_rows(schema)
        with pq.ParquetWriter(file, schema, compression=self.compression, store_schema=True) as writer:
            for table in rebatch(tables, rows):
                writer.write_table(table, row_group_size=rows)

    def count_rows(self, content: bytes) -> int:
        """From the footer."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(io.BytesIO(content)).num_rows)


@dataclass(frozen=True)
class Csv:
    """CSV with a header."""

    def refusal(self, schema: pa.Schema) -> str | None:
        """Cells hold scalars only."""
        import pyarrow as pa

        nested = [f"{column.name} ({column.type})" for column in schema if pa.types.is_nested(column.type)]
        return f"csv cannot hold {', '.join(nested)}; take sink=parquet, jsonl or arrow" if nested else None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write batch by batch."""
        from pyarrow import csv

        with csv.CSVWriter(file, schema) as writer:
            for table in tables:
                writer.write_table(table)

    def count_rows(self, content: bytes) -> int:
        """By parsing it."""
        from pyarrow import csv

        parse = csv.ParseOptions(newlines_in_values=True)
        return int(csv.read_csv(io.BytesIO(content), parse_options=parse).num_rows)


@dataclass(frozen=True)
class Jsonl:
    """One JSON object per line; times as ISO 8601, bytes as base64, NaN and infinities as null."""

    def refusal(self, schema: pa.Schema) -> str | None:  # noqa: ARG002
        """Everything has a form."""
        return None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:  # noqa: ARG002
        """Write batch by batch."""
        for table in tables:
            for batch in table.to_batches(max_chunksize=8192):
                lines = (json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) for row in batch.to_pylist())
                file.write("".join(f"{line}\n" for line in lines).encode())

    def count_rows(self, content: bytes) -> int:
        """Line by line: JSON escapes line breaks."""
        return content.count(b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


@dataclass(frozen=True)
class Arrow:
    """Arrow IPC, the file format."""

    compression: Compression

    def refusal(self, schema: pa.Schema) -> str | None:  # noqa: ARG002
        """Everything has a form."""
        return None

    def write(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write one record batch at a time."""
        from pyarrow import ipc

        compression = self.compression if self.compression in {"zstd", "lz4"} else None
        with ipc.new_file(file, schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
            for table in rebatch(tables, group_rows(schema)):
                writer.write_table(table.combine_chunks())

    def count_rows(self, content: bytes) -> int:
        """From the record batches."""
        from pyarrow import ipc

        with ipc.open_file(io.BytesIO(content)) as reader:
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
