"""The file formats that pyarrow reads, each as three functions: what is in a file, and reading a fragment of it.

`look` gives the pieces of a file that can be read alone, and its schema; `read` yields tables of a fragment, each with the
number of its first row within the file. What a file's columns are called and how they are cast is the caller's matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from runner.storage import is_local, open_input
from runner.types import File, Fragment

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 65_536

FormatName = Literal["parquet", "csv", "jsonl", "arrow", "orc"]


class Look(NamedTuple):
    """What is in a file."""

    fragments: list[Fragment]
    schema: pa.Schema


Numbered = Iterator[tuple[int, "pa.Table"]]


class Format(Protocol):
    """How one file format is read."""

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Read as little as tells the fragments and the schema."""

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Numbered:
        """Yield tables with at least the columns of `schema`; `keep` may be used to skip, need not be."""


@contextlib.contextmanager
def opened(path: str, options: Mapping[str, Any], compression: str | None = None) -> Iterator[Any]:
    """A file as pyarrow reads it fastest: natively on the local disk, through fsspec elsewhere."""
    import pyarrow as pa

    if is_local(path):
        with pa.OSFile(path) if compression is None else pa.input_stream(path, compression="detect") as native:
            yield native
    else:
        with open_input(path, options, compression) as file:
            yield pa.PythonFile(file, mode="r")


@dataclass(frozen=True)
class Parquet:
    """Row groups can be read alone, and skipped by their statistics."""

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Read the footer."""
        import pyarrow.parquet as pq

        with opened(file.path, options) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            return Look(list(_row_groups(file, counts)), parquet.schema_arrow)

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Numbered:
        """Read one row group at a time, in batches: nothing of another is held."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with (
            opened(fragment.file.path, options) as handle,
            pq.ParquetFile(handle, pre_buffer=False) as parquet,
        ):
            wanted = _wanted_groups(parquet, fragment, keep)
            for group, first in _starts(parquet, fragment):
                if group in wanted:
                    batches = parquet.iter_batches(
                        READ_ROWS, row_groups=[group], columns=schema.names, use_threads=False
                    )
                    yield from _numbered((pa.Table.from_batches([batch]) for batch in batches), first)


def _row_groups(file: File, counts: Sequence[int]) -> Iterator[Fragment]:
    if not counts:
        yield Fragment(file, file.size, 0, row_groups=(0, 0))
    first, total = 0, max(1, sum(counts))
    for i, rows in enumerate(counts):
        yield Fragment(file, file.size * rows // total, rows, first, (i, i + 1))
        first += rows


def _starts(parquet: Any, fragment: Fragment) -> Iterator[tuple[int, int]]:
    """The fragment's row groups, each with the number of its first row."""
    first = fragment.first_row
    for group in range(*(fragment.row_groups or (0, parquet.num_row_groups))):
        yield group, first
        first += parquet.metadata.row_group(group).num_rows


def _wanted_groups(parquet: Any, fragment: Fragment, keep: pa.Expression | None) -> set[int]:
    """The row groups in which, by their statistics, some row may pass the filter."""
    import pyarrow.dataset as ds

    groups = list(range(*(fragment.row_groups or (0, parquet.num_row_groups))))
    if keep is None or not groups:
        return set(groups)
    with contextlib.suppress(Exception):  # skipping is a gain, never a need: rows are filtered exactly afterwards
        whole = ds.ParquetFileFormat().make_fragment(fragment.file.path, row_groups=groups)
        return {info.id for info in whole.subset(filter=keep, schema=parquet.schema_arrow).row_groups}
    return set(groups)


def _numbered(tables: Iterator[pa.Table], first: int) -> Numbered:
    for table in tables:
        yield first, table
        first += table.num_rows


@dataclass(frozen=True)
class Csv:
    """Read whole, streaming; the types come from the first block of every file.

    Attributes:
        delimiter: pyarrow's `ParseOptions.delimiter`.
        column_types: Column to Arrow type name, where the first block misleads.
    """

    delimiter: str = ","
    column_types: Mapping[str, str] = field(default_factory=dict)

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block."""
        with (
            opened(file.path, options, "infer") as handle,
            self._open(handle, self._declared(), None) as reader,
        ):
            return Look([Fragment(file, file.size)], reader.schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Stream the file with the types fixed."""
        import pyarrow as pa

        types = {column.name: column.type for column in schema}
        with (
            opened(fragment.file.path, options, "infer") as handle,
            self._open(handle, types, schema.names) as reader,
        ):
            yield from _numbered((pa.Table.from_batches([batch]) for batch in reader), 0)

    def _declared(self) -> dict[str, Any]:
        from runner.batches import parse_type

        return {name: parse_type(name, spelled) for name, spelled in self.column_types.items()}

    def _open(self, handle: Any, types: Mapping[str, Any], columns: list[str] | None) -> Any:
        from pyarrow import csv

        convert = csv.ConvertOptions(column_types=dict(types), include_columns=columns, strings_can_be_null=True)
        return csv.open_csv(
            handle,
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=convert,
        )


@dataclass(frozen=True)
class Jsonl:
    """One JSON object per line; read whole, streaming. A key that a line lacks is null."""

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block."""
        with opened(file.path, options, "infer") as handle:
            return Look([Fragment(file, file.size)], self._open(handle, None).schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Stream the file with the types fixed."""
        import pyarrow as pa

        with opened(fragment.file.path, options, "infer") as handle:
            yield from _numbered((pa.Table.from_batches([batch]) for batch in self._open(handle, schema)), 0)

    def _open(self, handle: Any, schema: pa.Schema | None) -> Any:
        from pyarrow import json

        behavior = "infer" if schema is None else "ignore"
        parse = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behavior)
        return json.open_json(handle, read_options=json.ReadOptions(use_threads=False), parse_options=parse)


@dataclass(frozen=True)
class Arrow:
    """Arrow IPC, the file and the stream format (Feather version 2 is the file format). Read whole, streaming."""

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Read the schema."""
        with opened(file.path, options) as handle:
            return Look([Fragment(file, file.size)], _ipc_batches(handle, None)[0])

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Read one record batch at a time."""
        import pyarrow as pa

        with opened(fragment.file.path, options) as handle:
            batches = _ipc_batches(handle, schema.names)[1]
            yield from _numbered((pa.Table.from_batches([batch]) for batch in batches), 0)


def _ipc_batches(handle: Any, columns: list[str] | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import pyarrow as pa
    from pyarrow import ipc

    start = handle.tell()
    is_file = bytes(handle.read(6)) == b"ARROW1"
    handle.seek(start)
    reader = (ipc.open_file if is_file else ipc.open_stream)(handle)
    schema = reader.schema
    if columns is not None and (fields := [i for i, name in enumerate(schema.names) if name in columns]):
        handle.seek(start)
        reader = (ipc.open_file if is_file else ipc.open_stream)(
            handle, options=ipc.IpcReadOptions(included_fields=fields)
        )
    batches = (
        (reader.get_batch(i) for i in range(reader.num_record_batches))
        if isinstance(reader, pa.ipc.RecordBatchFileReader)
        else reader
    )
    return schema, iter(batches)


@dataclass(frozen=True)
class Orc:
    """Read stripe by stripe; a file is one fragment, since its footer does not tell the rows of a stripe."""

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Read the footer."""
        from pyarrow import orc

        with opened(file.path, options) as handle:
            footer = orc.ORCFile(handle)
            return Look([Fragment(file, file.size, footer.nrows)], footer.schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Read one stripe at a time."""
        import pyarrow as pa
        from pyarrow import orc

        with opened(fragment.file.path, options) as handle:
            file = orc.ORCFile(handle)
            stripes = (file.read_stripe(i, columns=schema.names) for i in range(file.nstripes))
            yield from _numbered((pa.Table.from_batches([stripe]) for stripe in stripes), 0)
