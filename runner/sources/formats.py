"""The file formats that pyarrow reads, each as two functions: what is in a file, and reading a fragment of it.

`look` gives the pieces of a file that can be read alone, and its schema; `read` yields tables of a fragment, each with the
number of its first row within the file. What a file's columns are called and how they are cast is the caller's matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from runner.sources.opening import opened
from runner.types import Fragment, Input, Unreadable
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

FormatName = Literal["parquet", "csv", "jsonl", "arrow", "orc"]
ARROW_MAGIC = b"ARROW1"


class Look(NamedTuple):
    """What is in a file; without a schema, it holds nothing that tells one.

    Attributes:
        unusable: Columns that cannot be used, each with why and what to do.
    """

    fragments: list[Fragment]
    schema: pa.Schema | None
    unusable: Mapping[str, str] = MappingProxyType({})


Numbered = Iterator[tuple[int, "pa.Table"]]
Items = Iterator[tuple[int, "pa.Table | Unreadable"]]
"""Tables, each with the number of its first row; from a tolerant format, also rows that cannot be parsed."""


class Format(Protocol):
    """How one file format is read."""

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Read as little as tells the fragments and the schema."""

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Items:
        """Yield tables with at least the columns of `schema`; `keep` may be used to skip, need not be."""


def numbered(batches: Iterator[pa.RecordBatch]) -> Numbered:
    """The batches of a whole file as tables, each with the number of its first row."""
    import pyarrow as pa

    first = 0
    for batch in batches:
        yield first, pa.Table.from_batches([batch])
        first += batch.num_rows


def sound(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches of a format that is not checked when it is read: offsets within their data, text that is UTF-8.

    Raises:
        ValueError: One is not what its types say.
    """
    import pyarrow as pa

    first = 0
    for batch in batches:
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as damaged:
            last = first + batch.num_rows - 1
            raise ValueError(f"rows {first} to {last}: {_with_name(first_line(damaged), batch)}") from damaged
        yield batch
        first += batch.num_rows


def _with_name(told: str, batch: pa.RecordBatch) -> str:
    """Pyarrow's message about a batch, which gives a column's number."""
    return re.sub(r"In column (\d+): (Invalid: )?", lambda at: f"column {batch.schema.names[int(at[1])]!r}: ", told)


@dataclass(frozen=True)
class Arrow:
    """Arrow IPC, the file and the stream format (Feather version 2 is the file format). Read whole, streaming."""

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Read the schema."""
        with opened(file.name, options) as handle:
            return Look([Fragment(file, file.size)], _ipc_reader(handle).schema)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Read one record batch at a time."""
        with opened(fragment.input.name, options) as handle:
            stored = _ipc_reader(handle).schema.names
            fields = [i for i, name in enumerate(stored) if name in schema.names] or [0][: len(stored)]
            yield from numbered(sound(_ipc_batches(_ipc_reader(handle, fields))))


def _ipc_reader(handle: Any, fields: list[int] | None = None) -> Any:
    from pyarrow import ipc

    handle.seek(0)
    is_file = bytes(handle.read(len(ARROW_MAGIC))) == ARROW_MAGIC
    handle.seek(0)
    return (ipc.open_file if is_file else ipc.open_stream)(handle, options=ipc.IpcReadOptions(included_fields=fields))


def _ipc_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    from pyarrow import ipc

    if isinstance(reader, ipc.RecordBatchFileReader):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)


@dataclass(frozen=True)
class Orc:
    """Read stripe by stripe; a file is one fragment, since its footer does not tell the rows of a stripe."""

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Read the footer."""
        from pyarrow import orc

        with opened(file.name, options) as handle:
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
        from pyarrow import orc

        with opened(fragment.input.name, options) as handle:
            file = orc.ORCFile(handle)
            columns = schema.names or file.schema.names[:1]  # without a column, a stripe has no rows
            yield from numbered(sound(file.read_stripe(i, columns=columns) for i in range(file.nstripes)))
