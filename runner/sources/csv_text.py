"""Reads CSV: types come from the first block of every file, then the file is streamed with these types."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.arrow.isolate import Guilty
from runner.sources import cutting, lines, text
from runner.sources.formats import FileContents, Items, Numbered, numbered
from runner.sources.opening import codec_of, open_part, open_text
from runner.sources.unclosed_quotes import UNCLOSED, WithSentinel
from runner.types import Fragment, Input

if TYPE_CHECKING:
    import pyarrow as pa

HEADER_BYTES = 64 * 1024  # of the beginning of a file: surely holds the header


@dataclass(frozen=True)
class Csv:
    """Reads CSV files with a header. An empty cell is null, and a quoted empty cell is an empty string.

    If a column that is not text has quoted empty cells in the first block, every quoted empty cell of the file is null: pyarrow has one
    setting for all columns. A blank line is skipped, except in a file of one column, where it is a null.

    Attributes:
        delimiter: pyarrow's `ParseOptions.delimiter`.
        column_types: Column to Arrow type name, for columns whose type the first block does not show.
        tolerant: Whether a row that cannot be parsed is yielded as `Unreadable`; else it is an error of the file.
    """

    delimiter: str = ","
    column_types: Mapping[str, str] = field(default_factory=dict)
    tolerant: bool = False

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Infer the types from the first block; where `tolerant`, rows of it that cannot be parsed are left out."""
        return text.inspect_text(file, options, self._inspect, self._parsable_text, header=1)

    def _inspect(self, file: Input, opening: text.Opening) -> FileContents:
        import pyarrow as pa

        schema = self._inferred(opening, quoted_null=True)
        if schema is None:
            return FileContents([Fragment(file, 0, 0)], None)
        if any(
            map(pa.types.is_null, schema.types)
        ):  # perhaps its cells are quoted empty strings, so the column is text
            schema = self._inferred(opening, quoted_null=False, declared=_types_with_values(schema))
        return FileContents([Fragment(file, file.size)], schema, self._not_utf8(schema))

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return the file in ranges of bytes, each of whole rows."""
        header = partial(self._header_end, fragment.input, options)
        if codec_of(fragment.input.name) is None and header() == 0:
            return [fragment]  # its header is too long to be given to each range
        return cutting.split_text(fragment, options, most_bytes, most_rows, cutting.csv_start(self.delimiter), header)

    def _parsable_text(self, opening: text.Opening, failure: Exception) -> bytes:
        """Return the header and those rows of the first block that have as many cells, with values of the declared types."""
        import pyarrow as pa

        with opening() as stream:
            header, rows = self._split_first_block(stream)
            names = self._names(header)
            declared = text.declared_types(self.column_types)
            types = {name: declared.get(name, pa.binary()) for name in names}
            parse = self._parsing(header, types, None, quoted_null=True, one_column=False)
            remedy = f"; does source.delimiter={self.delimiter} delimit its cells?"
            return header + lines.parsable_rows(rows, parse, failure, names, remedy, tolerant=self.tolerant)

    def _names(self, header: bytes) -> list[str]:
        return next(
            csv.reader(io.StringIO(header.decode("utf-8", "replace"), newline=""), delimiter=self.delimiter), []
        )

    def _not_utf8(self, schema: pa.Schema | None) -> dict[str, str]:
        """Return the columns that are not UTF-8, each with what to do: pyarrow would make them binary without a word."""
        import pyarrow as pa

        remedy = "is not UTF-8: convert the file, or give source.column_types={{{}: binary}}"
        kinds = text.types_of(schema or pa.schema([]))
        return {
            name: remedy.format(name)
            for name, kind in kinds.items()
            if pa.types.is_binary(kind) and name not in self.column_types
        }

    def _inferred(
        self, opening: text.Opening, *, quoted_null: bool, declared: Mapping[str, Any] | None = None
    ) -> pa.Schema | None:
        types = text.declared_types(self.column_types) if declared is None else declared
        with opening() as stream:
            reader = self._open(stream, types, None, quoted_null, one_column=False)
            return None if reader is None else _schema_of(reader)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Stream the file with the types of the schema."""
        file = fragment.input
        quoted_null = not self._file_has_quoted_empty_text(file, options, schema)
        one_column = len(schema) < 2 and self._count_columns(file, options) == 1
        fast = self._stream(self._opening(fragment, options), schema, quoted_null, one_column)
        reread = partial(self._parse_around_bad_rows, fragment, options, schema, quoted_null, one_column)
        try:
            yield from lines.reread_where_failed(fast, reread, tolerant=self.tolerant)
        except ValueError as error:
            if remedy := _remedy(error, fragment):
                raise ValueError(f"{error}; {remedy}") from error
            raise

    def _opening(self, fragment: Fragment, options: Mapping[str, Any]) -> text.Opening:
        """Return what opens a fragment. One that does not begin with the header gets it."""
        begin, end = cutting.range_of(fragment)
        if (begin, end) == (0, fragment.input.size):
            return partial(open_text, fragment.input.name, options)
        header = self._header(fragment.input, options) if begin else b""
        return partial(open_part, fragment.input, options, begin, end, header)

    def _parse_around_bad_rows(
        self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema, quoted_null: bool, one_column: bool
    ) -> Items:
        begin, _ = cutting.range_of(fragment)
        line = 1 + text.count_line_breaks(fragment.input, options, begin)
        line -= lines.count_line_breaks(self._header(fragment.input, options)) if begin else 0  # which is put before it
        with self._opening(fragment, options)() as stream:
            header, rows = lines.split_header(self._rows(stream, one_column, line))
            parse = self._parsing(header, text.types_of(schema), schema.names, quoted_null, one_column)
            yield from lines.parse_around_bad_rows(rows, parse, self._names(header))

    def _rows(self, stream: Any, one_column: bool, line: int = 1) -> Iterator[list[lines.Row]]:
        rows = lines.blocks(stream, lines.csv_row(self.delimiter), line=line)
        return rows if one_column else lines.without_blank_lines(rows)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
        """Return how many rows of the file come before a fragment."""
        return text.count_rows_before(replace(self, tolerant=True), fragment, options, schema)

    def row_texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """Return the rows of these numbers as they stand in the file."""
        one_column = self._count_columns(file, options) == 1
        with open_text(file.name, options) as stream:
            return lines.row_texts(lines.split_header(self._rows(stream, one_column))[1], numbers)

    def _parsing(
        self, header: bytes, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> lines.Parse:
        from pyarrow import csv as arrow

        def parse(rows: bytes) -> pa.Table:
            content = header + rows
            how = self._options(types, columns, quoted_null, one_column, block=len(content))
            return arrow.read_csv(io.BytesIO(content), **how)

        return text.parse_rows_with(parse)

    def _stream(self, opening: text.Opening, schema: pa.Schema, quoted_null: bool, one_column: bool) -> Numbered:
        rows = 0
        with opening() as stream:
            sentinel = WithSentinel(stream, self.delimiter)
            reader = self._open(sentinel, text.types_of(schema), schema.names, quoted_null, one_column)
            for first, table in numbered(text.stream_batches(reader or [])):
                rows = first + table.num_rows
                yield first, table
        if reader is not None and not sentinel.reached:
            raise ValueError(f"row {rows - 1}: {UNCLOSED}; it took in the rest of the file")

    def _quoted_empty_is_text(self, opening: text.Opening, schema: pa.Schema) -> bool:
        """Return whether the first block still has the schema's types if quoted empty cells are read as empty strings."""
        are_text = [_is_text(column.type) for column in schema]
        if not any(are_text) or all(are_text):
            return any(are_text)
        try:
            with opening() as stream:
                self._open(stream, text.types_of(schema), schema.names, quoted_null=False, one_column=False)
        except ValueError:
            return self._unparsable_rows(opening, schema, quoted_null=False) == self._unparsable_rows(
                opening, schema, quoted_null=True
            )
        return True

    def _unparsable_rows(self, opening: text.Opening, schema: pa.Schema, *, quoted_null: bool) -> list[int]:
        """Return which rows of the first block cannot be parsed, with quoted empty cells read as nulls or as text."""
        with opening() as stream:
            header, rows = self._split_first_block(stream)
            parse = self._parsing(header, text.types_of(schema), schema.names, quoted_null, one_column=False)
            return [each.row for each in lines.parsed(rows, parse) if isinstance(each, Guilty)]

    def _split_first_block(self, stream: Any) -> tuple[bytes, list[lines.Row]]:
        first = lines.first_rows(stream, lines.csv_row(self.delimiter), text.BLOCK_BYTES)
        header, rows = lines.split_header(lines.without_blank_lines(iter([first])))
        return header, next(rows)

    def _file_has_quoted_empty_text(self, file: Input, options: Mapping[str, Any], schema: pa.Schema) -> bool:
        """Return what `_quoted_empty_is_text` does of the file's first block. A process asks once, not for each range of the file."""
        find = partial(self._quoted_empty_is_text, partial(open_text, file.name, options), schema)
        return bool(text.remembered(("quoted", file, self.delimiter, schema.to_string()), find))

    def _count_columns(self, file: Input, options: Mapping[str, Any]) -> int:
        """Return how many columns the header has."""
        head = self._head(file, options).decode("utf-8-sig", errors="replace")
        return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=self.delimiter), []))

    def _head(self, file: Input, options: Mapping[str, Any]) -> bytes:
        """Return the beginning of a file. A process reads it once, not for each range of the file."""

        def read() -> bytes:
            with open_text(file.name, options, HEADER_BYTES) as stream:
                return bytes(stream.read(HEADER_BYTES))

        return bytes(text.remembered(("head", file), read))

    def _header(self, file: Input, options: Mapping[str, Any]) -> bytes:
        return self._head(file, options)[: self._header_end(file, options)].removeprefix(lines.BOM).lstrip(b"\r\n")

    def _header_end(self, file: Input, options: Mapping[str, Any]) -> int:
        """Return the place behind the first row that is not blank, which names the columns; 0 if it does not end within `HEADER_BYTES`."""
        head, row = self._head(file, options), lines.csv_row(self.delimiter)
        end = len(lines.BOM) if head.startswith(lines.BOM) else 0
        while found := row.match(head, end):
            end = found.end()
            if found[0].strip(b"\r\n"):
                return end
        return 0

    def _open(
        self, stream: Any, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> Any:
        """Return a streaming reader, `None` for a file without a header."""
        import pyarrow as pa

        try:
            return self._reader(stream, types, columns, quoted_null, one_column)
        except pa.ArrowInvalid as empty:
            if "Empty CSV" not in str(empty):
                raise text.readable_error(empty) from empty
        return None

    def _reader(
        self, stream: Any, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> Any:
        from pyarrow import csv as arrow

        judge = stream.judge if isinstance(stream, WithSentinel) else None
        return arrow.open_csv(stream, **self._options(types, columns, quoted_null, one_column, judge))

    def _options(
        self,
        types: Mapping[str, Any],
        columns: list[str] | None,
        quoted_null: bool,
        one_column: bool,
        judge: Callable[[Any], str] | None = None,
        block: int | None = None,
    ) -> dict[str, Any]:
        """Return pyarrow's options. They are the same for streaming and for parsing again, so that both give the same values."""
        from pyarrow import csv as arrow

        return {
            "read_options": arrow.ReadOptions(use_threads=False, block_size=block or text.BLOCK_BYTES),
            "parse_options": arrow.ParseOptions(
                delimiter=self.delimiter,
                newlines_in_values=True,
                ignore_empty_lines=not one_column,
                invalid_row_handler=judge,
            ),
            "convert_options": arrow.ConvertOptions(
                column_types=dict(types),
                include_columns=columns,
                strings_can_be_null=True,
                quoted_strings_can_be_null=quoted_null,
            ),
        }


def _remedy(error: ValueError, fragment: Fragment) -> str:
    """Return what to do if an error says that a range of a file ends within quotes: perhaps its end was not the end of a row."""
    _, end = cutting.range_of(fragment)
    if "that nothing closes" in str(error) and end < fragment.input.size:
        return "if these quotes are closed behind the range, start over with shard_bytes=null: a file stays whole"
    return ""


def _schema_of(reader: Any) -> pa.Schema:
    schema: pa.Schema = reader.schema
    try:
        schema.names  # noqa: B018 - names are decoded when they are asked for
    except UnicodeDecodeError as other:
        raise ValueError("the names of its columns are not UTF-8: convert the file") from other
    return schema


def _types_with_values(schema: pa.Schema) -> dict[str, Any]:
    """Return the types of the columns that have a value."""
    import pyarrow as pa

    return {name: kind for name, kind in text.types_of(schema).items() if not pa.types.is_null(kind)}


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_null(kind)
    )
