"""CSV and JSON lines: types come from the first block of every file, then the files are streamed with the types fixed."""

from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from runner.arrow.isolate import Guilty
from runner.sources import lines
from runner.sources.formats import Items, Look, Numbered, numbered, sound
from runner.sources.opening import opened_text
from runner.types import Fragment, Input
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = lines.LONGEST_ROW
HEAD = 64 * 1024  # surely holds the header

Opening = Callable[[], AbstractContextManager[Any]]
"""Opens a file, decompressed, from its beginning."""


def declared_types(spelled: Mapping[str, str]) -> dict[str, Any]:
    """`source.column_types` as Arrow types."""
    from runner.arrow.schemas import parse_type

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


def _checked(parse: Callable[[bytes], pa.Table]) -> lines.Parse:
    """Parse rows; what cannot be parsed is told with the remedy."""
    import pyarrow as pa

    def checked(rows: Sequence[lines.Row]) -> pa.Table:
        try:
            return parse(b"".join(row.text for row in rows))
        except pa.ArrowInvalid as wrong:
            raise _told(wrong) from wrong

    return checked


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


def _looked(opening: Opening, look: Callable[[Opening], Look], sound: Callable[[Opening, Exception], bytes]) -> Look:
    """What a text file is like, by its first block; by the rows of it that can be parsed, where not all can.

    Args:
        opening: Opens the file.
        look: Infers the types of what it is given to open.
        sound: Returns the text of the rows that can be parsed, or raises where such rows are not tolerated.
    """
    try:
        return look(opening)
    except ValueError as error:
        text = sound(opening, error)
    return look(lambda: contextlib.nullcontext(io.BytesIO(text)))


@dataclass(frozen=True)
class Csv:
    """With a header. An empty cell is null and a quoted empty cell is an empty string.

    Where a column of other than text has quoted empty cells in the first block, every quoted empty cell of the file is
    null. A blank line is skipped, except in files of one column, where it is a null.

    Attributes:
        delimiter: pyarrow's `ParseOptions.delimiter`.
        column_types: Column to Arrow type name, where the first block misleads.
        tolerant: Whether a row that cannot be parsed is yielded as such, in place of refusing the file.
    """

    delimiter: str = ","
    column_types: Mapping[str, str] = field(default_factory=dict)
    tolerant: bool = False

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block, less the rows of it that cannot be parsed where that is tolerated."""
        return _looked(partial(opened_text, file.name, options), partial(self._look, file), self._sound)

    def _look(self, file: Input, opening: Opening) -> Look:
        import pyarrow as pa

        schema = self._inferred(opening, quoted_null=True)
        if schema is None:
            return Look([Fragment(file, 0, 0)], None)
        if any(map(pa.types.is_null, schema.types)):  # perhaps what is quoted is text
            schema = self._inferred(opening, quoted_null=False, declared=_known(schema))
        return Look([Fragment(file, file.size)], schema, self._not_text(schema))

    def _sound(self, opening: Opening, failure: Exception) -> bytes:
        """The header and the rows of the first block that have as many cells, and cells of the declared types."""
        import pyarrow as pa

        with opening() as stream:
            header, rows = self._beginning(stream)
            names = self._names(header)
            declared = declared_types(self.column_types)
            types = {name: declared.get(name, pa.binary()) for name in names}
            parse = self._parsing(header, types, None, quoted_null=True, one_column=False)
            remedy = f"; does source.delimiter={self.delimiter} delimit its cells?"
            return header + lines.sound_rows(rows, parse, failure, names, remedy, tolerant=self.tolerant)

    def _names(self, header: bytes) -> list[str]:
        return next(
            csv.reader(io.StringIO(header.decode("utf-8", "replace"), newline=""), delimiter=self.delimiter), []
        )

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
        self, opening: Opening, *, quoted_null: bool, declared: Mapping[str, Any] | None = None
    ) -> pa.Schema | None:
        types = declared_types(self.column_types) if declared is None else declared
        with opening() as stream:
            reader = self._open(stream, types, None, quoted_null, one_column=False)
            return None if reader is None else _schema(reader)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Stream the file with the types fixed."""
        opening: Opening = partial(opened_text, fragment.input.name, options)
        quoted_null = not self._fits(opening, schema)
        one_column = len(schema) < 2 and self._columns(fragment.input, options) == 1
        fast = self._streamed(opening, schema, quoted_null, one_column)
        again = partial(self._salvaged, opening, schema, quoted_null, one_column)
        yield from lines.continued(fast, again, tolerant=self.tolerant)

    def _salvaged(self, opening: Opening, schema: pa.Schema, quoted_null: bool, one_column: bool) -> Items:
        with opening() as stream:
            header, rows = lines.headed(self._rows(stream, one_column))
            parse = self._parsing(header, _types(schema), schema.names, quoted_null, one_column)
            yield from lines.salvaged(rows, parse, self._names(header))

    def _rows(self, stream: Any, one_column: bool) -> Iterator[list[lines.Row]]:
        rows = lines.blocks(stream, lines.csv_row(self.delimiter))
        return rows if one_column else lines.filled(rows)

    def texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """The rows of these numbers as they stand in the file."""
        one_column = self._columns(file, options) == 1
        with opened_text(file.name, options) as stream:
            return lines.texts(lines.headed(self._rows(stream, one_column))[1], numbers)

    def _parsing(
        self, header: bytes, types: Mapping[str, Any], columns: list[str] | None, quoted_null: bool, one_column: bool
    ) -> lines.Parse:
        from pyarrow import csv as arrow

        def parse(rows: bytes) -> pa.Table:
            text = header + rows
            how = self._options(types, columns, quoted_null, one_column, block=len(text))
            return arrow.read_csv(io.BytesIO(text), **how)

        return _checked(parse)

    def _streamed(self, opening: Opening, schema: pa.Schema, quoted_null: bool, one_column: bool) -> Numbered:
        rows = 0
        with opening() as stream:
            end = End(stream, self.delimiter)
            reader = self._open(end, _types(schema), schema.names, quoted_null, one_column)
            for first, table in numbered(_streamed(reader or [])):
                rows = first + table.num_rows
                yield first, table
        if reader is not None and not end.reached:
            raise ValueError(f"row {rows - 1}: a quote is opened that nothing closes; it took in the rest of the file")

    def _fits(self, opening: Opening, schema: pa.Schema) -> bool:
        """Whether the first block has the types also if a quoted empty cell is text."""
        texts = [_is_text(column.type) for column in schema]
        if not any(texts) or all(texts):
            return any(texts)
        try:
            with opening() as stream:
                self._open(stream, _types(schema), schema.names, quoted_null=False, one_column=False)
        except ValueError:
            return self._unreadable(opening, schema, quoted_null=False) == self._unreadable(
                opening, schema, quoted_null=True
            )
        return True

    def _unreadable(self, opening: Opening, schema: pa.Schema, *, quoted_null: bool) -> list[int]:
        """Which rows of the first block cannot be parsed, in whatever way quoted empty cells are taken."""
        with opening() as stream:
            header, rows = self._beginning(stream)
            parse = self._parsing(header, _types(schema), schema.names, quoted_null, one_column=False)
            return [each.row for each in lines.parsed(rows, parse) if isinstance(each, Guilty)]

    def _beginning(self, stream: Any) -> tuple[bytes, list[lines.Row]]:
        first = lines.beginning(stream, lines.csv_row(self.delimiter), BLOCK)
        header, rows = lines.headed(lines.filled(iter([first])))
        return header, next(rows)

    def _columns(self, file: Input, options: Mapping[str, Any]) -> int:
        """How many columns the header has."""
        with opened_text(file.name, options, HEAD) as stream:
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

        judge = stream.judge if isinstance(stream, End) else None
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
        """Pyarrow's options: the same, however the file is read."""
        from pyarrow import csv as arrow

        return {
            "read_options": arrow.ReadOptions(use_threads=False, block_size=block or BLOCK),
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
        tolerant: Whether a row that cannot be parsed is yielded as such, in place of refusing the file.
    """

    column_types: Mapping[str, str] = field(default_factory=dict)
    tolerant: bool = False

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Infer the types from the first block, less the rows of it that cannot be parsed where that is tolerated."""
        return _looked(partial(opened_text, file.name, options), partial(self._look, file), self._sound)

    def _look(self, file: Input, opening: Opening) -> Look:
        import pyarrow as pa

        declared = pa.schema(declared_types(self.column_types)) if self.column_types else None
        with opening() as stream:
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
    ) -> Items:
        """Stream the file with the types fixed."""
        opening: Opening = partial(opened_text, fragment.input.name, options)
        again = partial(self._salvaged, opening, schema)
        yield from lines.continued(self._streamed(opening, schema), again, tolerant=self.tolerant)

    def _streamed(self, opening: Opening, schema: pa.Schema) -> Numbered:
        with opening() as stream:
            yield from numbered(sound(_streamed(self._open(stream, schema, "ignore") or [])))

    def _salvaged(self, opening: Opening, schema: pa.Schema) -> Items:
        with opening() as stream:
            yield from lines.salvaged(self._rows(stream), self._parsing(schema))

    def _sound(self, opening: Opening, failure: Exception) -> bytes:
        """The rows of the first block that are JSON objects, with values of the declared types."""
        import pyarrow as pa

        with opening() as stream:
            first = [row for row in lines.beginning(stream, lines.JSON_ROW, BLOCK) if row.text.strip()]
            every = "ignore" if "changed from" in str(failure) else "infer"
            parse = self._parsing(pa.schema(declared_types(self.column_types)), every)
            remedy = "; expected one JSON object per line"
            return lines.sound_rows(first, parse, failure, (), remedy, tolerant=self.tolerant)

    def _rows(self, stream: Any) -> Iterator[list[lines.Row]]:
        return ([row for row in block if row.text.strip()] for block in lines.blocks(stream, lines.JSON_ROW))

    def texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """The rows of these numbers as they stand in the file."""
        with opened_text(file.name, options) as stream:
            return lines.texts(self._rows(stream), numbers)

    def _parsing(self, schema: pa.Schema, others: str = "ignore") -> lines.Parse:
        import pyarrow as pa
        from pyarrow import json

        def parse(rows: bytes) -> pa.Table:
            table = json.read_json(
                Shallow(io.BytesIO(rows)),
                read_options=json.ReadOptions(use_threads=False, block_size=len(rows)),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
            return pa.Table.from_batches(sound(iter(table.to_batches())), table.schema)

        return _checked(parse)

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
