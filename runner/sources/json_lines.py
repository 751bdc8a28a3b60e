"""Reads JSON lines: types come from the first block of every file, then the file is streamed with these types."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from runner.sources import cutting, lines, text
from runner.sources.formats import FileContents, Items, Numbered, numbered, validated
from runner.sources.opening import open_part, open_text
from runner.types import Fragment, Input

if TYPE_CHECKING:
    import pyarrow as pa


class Shallow(io.RawIOBase):
    """A stream of JSON that raises an error where a line is nested so deeply that pyarrow's parser would overflow the stack.

    pyarrow parses by recursion without a limit, and an overflow of the stack ends the process, so there is no error to catch. Counting
    the depth of every line in Python would cost more than parsing it. But what is that deep closes many brackets in a row (objects open
    with a key between their braces, so the closing side is what shows them). So a plain search for such runs comes first, and the depth
    is counted only in a piece of the stream that has one. A JSON text with white space between its brackets passes this search.
    """

    DEEPEST = 5_000  # levels; at 20,000 the stack overflows
    RUNS = (b"[" * 500, b"]" * 500, b"}" * 500, b"}]" * 250)

    def __init__(self, stream: Any) -> None:
        """Take the stream."""
        self._stream = stream

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the stream.

        Raises:
            ValueError: A line in them is nested too deeply.
        """
        data = bytes(self._stream.read(size))
        if any(run in data for run in self.RUNS) and any(_depth(line) > self.DEEPEST for line in data.splitlines()):
            raise ValueError(f"a line is nested more than {self.DEEPEST} deep")
        return data


def _depth(line: bytes) -> int:
    bare = re.sub(rb'"(?:\\.|[^"\\])*"', b"", line)
    return max(accumulate((c in b"[{") - (c in b"]}") for c in bare), default=0)


def _opening(fragment: Fragment, options: Mapping[str, Any]) -> text.Opening:
    """Return what opens a fragment. A blank line comes before one from within a file: its first bytes are no byte order mark."""
    begin, end = cutting.range_of(fragment)
    if (begin, end) == (0, fragment.input.size):
        return partial(open_text, fragment.input.name, options)
    return partial(open_part, fragment.input, options, begin, end, b"\n" if begin else b"")


@dataclass(frozen=True)
class Jsonl:
    """Reads files with one JSON object per line. Blank lines are skipped, and a key that a line lacks is null.

    Attributes:
        column_types: Column to Arrow type name, for columns whose type the first block does not show.
        tolerant: Whether a row that cannot be parsed is yielded as `Unreadable`; else it is an error of the file.
    """

    column_types: Mapping[str, str] = field(default_factory=dict)
    tolerant: bool = False

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Infer the types from the first block; where `tolerant`, rows of it that cannot be parsed are left out."""
        return text.inspect_text(file, options, self._inspect, self._parsable_text)

    def _inspect(self, file: Input, opening: text.Opening) -> FileContents:
        import pyarrow as pa

        declared = pa.schema(text.declared_types(self.column_types)) if self.column_types else None
        with opening() as stream:
            reader = self._open(stream, declared, "infer")
            return (
                FileContents([Fragment(file, 0, 0)], None)
                if reader is None
                else FileContents([Fragment(file, file.size)], reader.schema)
            )

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Stream the file with the types of the schema."""
        reread = partial(self._parse_around_bad_rows, fragment, options, schema)
        fast = self._stream(_opening(fragment, options), schema)
        yield from lines.reread_where_failed(fast, reread, tolerant=self.tolerant)

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return the file in ranges of bytes, each of whole lines."""
        return cutting.split_text(fragment, options, most_bytes, most_rows, cutting.line_start)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
        """Return how many rows of the file come before a fragment."""
        return text.count_rows_before(replace(self, tolerant=True), fragment, options, schema)

    def _stream(self, opening: text.Opening, schema: pa.Schema) -> Numbered:
        with opening() as stream:
            reader = self._open(stream, schema, "ignore")
            yield from numbered(validated(text.stream_batches(reader or [])))

    def _parse_around_bad_rows(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> Items:
        begin, _ = cutting.range_of(fragment)
        line = 1 + text.count_line_breaks(fragment.input, options, begin)
        with _opening(fragment, options)() as stream:
            yield from lines.parse_around_bad_rows(self._rows(stream, line - (begin > 0)), self._parsing(schema))

    def _parsable_text(self, opening: text.Opening, failure: Exception) -> bytes:
        """Return those rows of the first block that are JSON objects with values of the declared types."""
        import pyarrow as pa

        with opening() as stream:
            first = [row for row in lines.first_rows(stream, lines.JSON_ROW, text.BLOCK_BYTES) if row.text.strip()]
            others = "ignore" if "changed from" in str(failure) else "infer"
            parse = self._parsing(pa.schema(text.declared_types(self.column_types)), others)
            remedy = "; expected one JSON object per line"
            return lines.parsable_rows(first, parse, failure, (), remedy, tolerant=self.tolerant)

    def _rows(self, stream: Any, line: int = 1) -> Iterator[list[lines.Row]]:
        blocks = lines.blocks(stream, lines.JSON_ROW, line=line)
        return ([row for row in block if row.text.strip()] for block in blocks)

    def row_texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """Return the rows of these numbers as they stand in the file."""
        with open_text(file.name, options) as stream:
            return lines.row_texts(self._rows(stream), numbers)

    def _parsing(self, schema: pa.Schema, others: str = "ignore") -> lines.Parse:
        import pyarrow as pa
        from pyarrow import json

        def parse(rows: bytes) -> pa.Table:
            table = json.read_json(
                Shallow(io.BytesIO(rows)),
                read_options=json.ReadOptions(use_threads=False, block_size=len(rows)),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=others),
            )
            return pa.Table.from_batches(validated(iter(table.to_batches())), table.schema)

        return text.parse_rows_with(parse)

    def _open(self, stream: Any, schema: pa.Schema | None, unexpected: str) -> Any:
        """Return a streaming reader, `None` for a file of blank lines."""
        import pyarrow as pa
        from pyarrow import json

        try:
            return json.open_json(
                Shallow(stream),
                read_options=json.ReadOptions(use_threads=False, block_size=text.BLOCK_BYTES),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
            )
        except pa.ArrowInvalid as empty:
            if "Empty JSON" not in str(empty):
                raise text.readable_error(empty) from empty
        return None
