"""CSV and JSON lines: types come from the first block of every file, then the files are streamed with the types fixed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from runner.sources.formats import Look, Numbered, first_line, numbered, sound
from runner.sources.opening import opened_text
from runner.types import File, Fragment

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 4 * 1024**2  # also the longest row
HEAD = 64 * 1024  # surely holds the header


def declared_types(spelled: Mapping[str, str]) -> dict[str, Any]:
    """`source.column_types` as Arrow types."""
    from runner.batches import parse_type

    return {name: parse_type(name, each) for name, each in spelled.items()}


def _streamed(reader: Any) -> Iterator[pa.RecordBatch]:
    """The batches; what cannot be parsed is told with the remedy."""
    import pyarrow as pa

    rows = 0
    try:
        for batch in reader:
            rows += batch.num_rows
            yield batch
    except pa.ArrowInvalid as wrong:
        raise _told(wrong, rows) from wrong


MISLED = ("conversion error", "changed from", "Failed to convert JSON")


def _told(error: Exception, rows: int = 0) -> ValueError:
    """The error for people, after so many rows; rows of JSON, which pyarrow counts block by block, counted from 0."""
    told = re.sub(r"in row (\d+)", lambda found: f"in row {rows + int(found[1])}", first_line(error))
    if "straddl" in told:
        return ValueError(f"after {rows} rows: a row of more than {BLOCK >> 20} MiB, or a quote that nothing closes")
    if re.search(r"Column\(\) changed|document is empty", told):
        return ValueError(f"{told}; expected one JSON object per line")
    if any(sign in told for sign in MISLED):
        return ValueError(
            f"{told} (types come from a file's first block; source.column_types={{name: type}} fixes them)"
        )
    return ValueError(told)


@dataclass(frozen=True)
class Csv:
    """With a header. An empty cell is null and a quoted empty cell is an empty string.

    Where a column of other than text has quoted empty cells in the first block, every quoted empty cell of the file is
    null. A blank line is skipped, except in files of one column, where it is a null.

    Attributes:
        delimiter: pyarrow's `ParseOptions.delimiter`.
        column_types: Column to Arrow type name, where the first block misleads.
    """

    delimiter: str = ","
    column_types: Mapping[str, str] = field(default_factory=dict)

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block."""
        import pyarrow as pa

        schema = self._inferred(file, options, quoted_null=True)
        if schema is None:
            return Look([Fragment(file, 0, 0)], None)
        if any(map(pa.types.is_null, schema.types)):  # perhaps what is quoted is text
            schema = self._inferred(file, options, quoted_null=False, declared=_known(schema))
        return Look([Fragment(file, file.size)], schema, self._not_text(schema))

    def _not_text(self, schema: pa.Schema | None) -> dict[str, str]:
        """Columns of text in another encoding, which would become bytes in silence."""
        import pyarrow as pa

        remedy = "is not UTF-8: convert the file, or give source.column_types={{{}: binary}}"
        kinds = _types(schema or pa.schema([]))
        return {
            name: remedy.format(name)
            for name, kind in kinds.items()
            if pa.types.is_binary(kind) and name not in self.column_types
        }

    def _inferred(
        self, file: File, options: Mapping[str, Any], *, quoted_null: bool, declared: Mapping[str, Any] | None = None
    ) -> pa.Schema | None:
        types = declared_types(self.column_types) if declared is None else declared
        with opened_text(file.path, options) as stream:
            reader = self._open(stream, types, None, quoted_null, one_column=False)
            return None if reader is None else _schema(reader)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Stream the file with the types fixed."""
        quoted_null = not self._fits(fragment.file, schema, options)
        one_column = len(schema) < 2 and self._columns(fragment.file, options) == 1
        rows = 0
        with opened_text(fragment.file.path, options) as stream:
            end = End(stream, self.delimiter)
            reader = self._open(end, _types(schema), schema.names, quoted_null, one_column)
            for first, table in numbered(_streamed(reader or [])):
                rows = first + table.num_rows
                yield first, table
        if reader is not None and not end.reached:
            raise ValueError(f"row {rows - 1}: a quote is opened that nothing closes; it took in the rest of the file")

    def _fits(self, file: File, schema: pa.Schema, options: Mapping[str, Any]) -> bool:
        """Whether the first block has the types also if a quoted empty cell is text."""
        texts = [_is_text(column.type) for column in schema]
        if not any(texts) or all(texts):
            return any(texts)
        try:
            with opened_text(file.path, options) as stream:
                self._open(stream, _types(schema), schema.names, quoted_null=False, one_column=False)
        except ValueError:
            return False
        return True

    def _columns(self, file: File, options: Mapping[str, Any]) -> int:
        """How many columns the header has."""
        with opened_text(file.path, options, HEAD) as stream:
            head = bytes(stream.read(HEAD)).decode("utf-8-sig", errors="replace")
        return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter), []))

    def _open(
        self, stream: Any, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> Any:
        """A streaming reader, `None` for a file without a header."""
        import pyarrow as pa

        try:
            return self._reader(stream, types, columns, quoted_null, one_column)
        except pa.ArrowInvalid as empty:
            if "Empty CSV" not in str(empty):
                raise _told(empty) from empty
        return None

    def _reader(
        self, stream: Any, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> Any:
        from pyarrow import csv as arrow

        return arrow.open_csv(
            stream,
            read_options=arrow.ReadOptions(use_threads=False, block_size=BLOCK),
            parse_options=arrow.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=not one_column,
                invalid_row_handler=stream.judge if isinstance(stream, End) else None,
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict(types),
                include_columns=columns,
                strings_can_be_null=True,
                quoted_strings_can_be_null=quoted_null,
            ),
        )


def _schema(reader: Any) -> pa.Schema:
    schema: pa.Schema = reader.schema
    try:
        schema.names  # noqa: B018 - names are decoded when they are asked for
    except UnicodeDecodeError as other:
        raise ValueError("the names of its columns are not UTF-8: convert the file") from other
    return schema


class End(io.RawIOBase):
    """A stream of CSV with one more row, which only a parser that is within quotes takes for a value.

    Attributes:
        reached: Whether the parser saw that row as one.
    """

    MARK, CELLS = "\0end", 10_007

    def __init__(self, stream: Any, delimiter: str) -> None:
        """Take the stream."""
        self.reached = False
        self._stream, self._last = stream, b"\n"
        self._row = f"{self.MARK}{delimiter * (self.CELLS - 1)}\n".encode()

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read on; behind the last line comes the row."""
        if data := bytes(self._stream.read(size)):
            self._last = data[-1:]
            return data
        row, self._row = self._row, b""
        return row if not row or self._last in b"\r\n" else b"\n" + row

    def judge(self, row: Any) -> str:
        """What is to become of a row with another number of cells than the header has, in pyarrow's words."""
        self.reached = self.reached or (row.actual_columns == self.CELLS and row.text.startswith(self.MARK))
        return "skip" if self.reached else "error"


def _types(schema: pa.Schema) -> dict[str, Any]:
    return {column.name: column.type for column in schema}


def _known(schema: pa.Schema) -> dict[str, Any]:
    """The types of the columns that have a value."""
    import pyarrow as pa

    return {name: kind for name, kind in _types(schema).items() if not pa.types.is_null(kind)}


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)
    )


class Shallow(io.RawIOBase):
    """A stream of JSON, refused where it is nested so deeply that pyarrow's parser would end the process."""

    DEEPEST = 5_000  # at 20,000 the stack overflows
    SIGNS = (b"[" * 500, b"]" * 500, b"}" * 500, b"}]" * 250)

    def __init__(self, stream: Any) -> None:
        """Take the stream."""
        self._stream = stream

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = bytes(self._stream.read(size))
        if any(sign in data for sign in self.SIGNS) and any(_depth(line) > self.DEEPEST for line in data.splitlines()):
            raise ValueError(f"a line is nested more than {self.DEEPEST} deep")
        return data


def _depth(line: bytes) -> int:
    bare = re.sub(rb'"(?:\\.|[^"\\])*"', b"", line)
    return max(accumulate((c in b"[{") - (c in b"]}") for c in bare), default=0)


@dataclass(frozen=True)
class Jsonl:
    """One JSON object per line; blank lines are skipped, and a key that a line lacks is null.

    Attributes:
        column_types: Column to Arrow type name, where the first block misleads.
    """

    column_types: Mapping[str, str] = field(default_factory=dict)

    def look(self, file: File, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block."""
        import pyarrow as pa

        declared = pa.schema(declared_types(self.column_types)) if self.column_types else None
        with opened_text(file.path, options) as stream:
            reader = self._open(stream, declared, "infer")
            return (
                Look([Fragment(file, 0, 0)], None)
                if reader is None
                else Look([Fragment(file, file.size)], reader.schema)
            )

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Numbered:
        """Stream the file with the types fixed."""
        with opened_text(fragment.file.path, options) as stream:
            yield from numbered(sound(_streamed(self._open(stream, schema, "ignore") or [])))

    def _open(self, stream: Any, schema: pa.Schema | None, unexpected: str) -> Any:
        """A streaming reader, `None` for a file of blank lines."""
        import pyarrow as pa
        from pyarrow import json

        try:
            return json.open_json(
                Shallow(stream),
                read_options=json.ReadOptions(use_threads=False, block_size=BLOCK),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
            )
        except pa.ArrowInvalid as empty:
            if "Empty JSON" not in str(empty):
                raise _told(empty) from empty
        return None
