"""Defines what a file format is (`inspect` a file, `read` a fragment of it), and reads Arrow IPC and ORC.

`inspect` returns the fragments of a file that can be read alone, and its schema. `read` yields tables of a fragment, each with the number
of its first row within the file. The caller selects and casts columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from runner.sources.opening import open_stored
from runner.types import Fragment, Input, Unreadable
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

FormatName = Literal["parquet", "csv", "jsonl", "arrow", "orc", "text", "binary", "images"]
ARROW_MAGIC = b"ARROW1"


class FileContents(NamedTuple):
    """What is in a file.

    Attributes:
        fragments: What can be read alone.
        schema: Names and types of the columns; `None` if the file is empty, so that nothing tells them.
        unusable: Columns that cannot be used, each with the reason and what to do.
    """

    fragments: list[Fragment]
    schema: pa.Schema | None
    unusable: Mapping[str, str] = MappingProxyType({})


Numbered = Iterator[tuple[int, "pa.Table"]]
"""Tables, each with the number of its first row."""
Items = Iterator[tuple[int, "pa.Table | Unreadable"]]
"""The same; a tolerant format also yields the rows that cannot be parsed, each with its number."""


class Format(Protocol):
    """How one file format is read.

    A format may have an attribute `left_out`, names of columns that need not go to quarantine with a bad row, and an attribute `busy`:
    see `runner.types.Reader`. A format whose files can be divided further than `inspect` does has a method
    `divide(fragment, options, most_bytes, most_rows)`.
    """

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Return the fragments and the schema of a file, after reading as little of it as possible."""

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Items:
        """Yield tables with at least the columns of `schema`. A format may use the filter `keep` to skip data; it need not.

        Rows are numbered within the file. A format that cannot number them so without reading what comes before the fragment numbers them
        within the fragment, and has a method `rows_before(fragment, options, schema)`.
        """


def divide(
    format_: Format,
    fragment: Fragment,
    options: Mapping[str, Any],
    most_bytes: int | None,
    most_rows: int | None,
) -> list[Fragment]:
    """Return a fragment in pieces of about so many bytes or rows; whole where its format cannot divide it."""
    found = getattr(format_, "divide", None)
    return [fragment] if found is None else list(found(fragment, options, most_bytes, most_rows))


def pieces_of_batches(
    fragment: Fragment, what: str, count: int, most_bytes: int | None, most_rows: int | None
) -> list[Fragment]:
    """Return a whole file in pieces of its batches (or stripes, which `what` says); their rows are estimated as if all were of one size."""
    size, rows = fragment.bytes, fragment.probable_rows or 0
    wanted = max(-(-size // most_bytes) if most_bytes else 1, -(-rows // most_rows) if most_rows else 1)
    step = max(1, count // wanted)
    if wanted < 2 or step >= count or fragment.span is not None:
        return [fragment]
    ranges = [(begin, min(begin + step, count)) for begin in range(0, count, step)]
    return [
        Fragment(
            fragment.input,
            size * (end - begin) // count,
            span=(what, begin, end),
            joinable=True,
            about_rows=rows * (end - begin) // count,
        )
        for begin, end in ranges
    ]


def _numbers(fragment: Fragment, count: int) -> range:
    """Return the numbers of the batches that a fragment has, of a file of so many."""
    return range(count) if fragment.span is None else range(*fragment.span[1:])


def _rows_before(format_: Format, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
    import pyarrow as pa

    assert fragment.span is not None
    what, begin, _ = fragment.span
    before = format_.read(replace(fragment, span=(what, 0, begin)), pa.schema(list(schema)[:1]), options, None)
    return sum(table.num_rows for _, table in before) if begin else 0


def numbered(batches: Iterator[pa.RecordBatch]) -> Numbered:
    """Yield the batches of a whole file as tables, each with the number of its first row."""
    import pyarrow as pa

    first = 0
    for batch in batches:
        yield first, pa.Table.from_batches([batch])
        first += batch.num_rows


def validated(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches after a check of their bytes. pyarrow does not check offsets and UTF-8 when it reads these formats.

    Raises:
        ValueError: A batch has offsets outside its data, or text that is not UTF-8.
    """
    import pyarrow as pa

    first = 0
    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as damaged:
            last = first + batch.num_rows - 1
            raise ValueError(f"rows {first} to {last}: {_with_column_name(first_line(damaged), batch)}") from damaged
        yield batch
        first += batch.num_rows


def _with_column_name(message: str, batch: pa.RecordBatch) -> str:
    """Return pyarrow's message about a batch with the column's name in place of its number."""
    return re.sub(r"In column (\d+): (Invalid: )?", lambda at: f"column {batch.schema.names[int(at[1])]!r}: ", message)


@dataclass(frozen=True)
class Arrow:
    """Reads Arrow IPC, both the file and the stream format (Feather version 2 is the file format). The file format can be divided."""

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Read the schema."""
        with open_stored(file.name, options) as handle:
            return FileContents([Fragment(file, file.size)], _ipc_reader(handle).schema)

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return the file in pieces of record batches. Their rows are not known, so only bytes divide it."""
        with open_stored(fragment.input.name, options) as handle:
            count = getattr(_ipc_reader(handle), "num_record_batches", 1)  # a stream does not tell
        return pieces_of_batches(fragment, "record batches", count, most_bytes, most_rows)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
        """Return how many rows of the file come before a fragment."""
        return _rows_before(self, fragment, options, schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Read one record batch at a time."""
        with open_stored(fragment.input.name, options) as handle:
            stored = _ipc_reader(handle).schema.names
            fields = [i for i, name in enumerate(stored) if name in schema.names] or [0][: len(stored)]
            yield from numbered(validated(_ipc_batches(_ipc_reader(handle, fields), fragment)))


def _ipc_reader(handle: Any, fields: list[int] | None = None) -> Any:
    from pyarrow import ipc

    handle.seek(0)
    is_file = bytes(handle.read(len(ARROW_MAGIC))) == ARROW_MAGIC
    handle.seek(0)
    return (ipc.open_file if is_file else ipc.open_stream)(handle, options=ipc.IpcReadOptions(included_fields=fields))


def _ipc_batches(reader: Any, fragment: Fragment) -> Iterator[pa.RecordBatch]:
    from pyarrow import ipc

    if isinstance(reader, ipc.RecordBatchFileReader):
        return (reader.get_batch(i) for i in _numbers(fragment, reader.num_record_batches))
    return iter(reader)


@dataclass(frozen=True)
class Orc:
    """Reads ORC stripe by stripe. A file is one fragment until it is divided: the footer does not tell the rows of each stripe."""

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Read the footer."""
        from pyarrow import orc

        with open_stored(file.name, options) as handle:
            footer = orc.ORCFile(handle)
            return FileContents([Fragment(file, file.size, footer.nrows)], footer.schema)

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return the file in pieces of stripes."""
        from pyarrow import orc

        with open_stored(fragment.input.name, options) as handle:
            count = orc.ORCFile(handle).nstripes
        return pieces_of_batches(fragment, "stripes", count, most_bytes, most_rows)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
        """Return how many rows of the file come before a fragment."""
        return _rows_before(self, fragment, options, schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Read one stripe at a time."""
        from pyarrow import orc

        with open_stored(fragment.input.name, options) as handle:
            file = orc.ORCFile(handle)
            columns = schema.names or file.schema.names[:1]  # without a column, a stripe has no rows
            stripes = _numbers(fragment, file.nstripes)
            yield from numbered(validated(file.read_stripe(i, columns=columns) for i in stripes))
