"""CSV and JSON lines: types come from the first block of every file, then the files are streamed with the types fixed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.sources.formats import Look, Numbered, numbered
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
    """The batches; values that do not fit the types of the first block are told with the remedy."""
    import pyarrow as pa

    try:
        yield from reader
    except pa.ArrowInvalid as wrong:
        raise _told(wrong) from wrong


def _told(error: Exception) -> ValueError:
    told = next(iter(str(error).splitlines()), "")
    misled = "conversion error" in told or "changed from" in told
    remedy = " (types come from a file's first block; source.column_types={name: type} fixes them)" if misled else ""
    return ValueError(told + remedy)


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
        self._refuse_bytes(schema)
        return Look([Fragment(file, file.size)], schema)

    def _refuse_bytes(self, schema: pa.Schema | None) -> None:
        """Text in another encoding would become bytes in silence."""
        import pyarrow as pa

        for name, kind in _types(schema or pa.schema([])).items():
            if pa.types.is_binary(kind) and name not in self.column_types:
                raise ValueError(
                    f"column {name!r} is not UTF-8: convert the file, or give source.column_types={{{name}: binary}}"
                )

    def _inferred(
        self, file: File, options: Mapping[str, Any], *, quoted_null: bool, declared: Mapping[str, Any] | None = None
    ) -> pa.Schema | None:
        types = declared_types(self.column_types) if declared is None else declared
        with opened_text(file.path, options) as stream:
            reader = self._open(stream, types, None, quoted_null, one_column=False)
            return None if reader is None else reader.schema

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
        with opened_text(fragment.file.path, options) as stream:
            reader = self._open(stream, _types(schema), schema.names, quoted_null, one_column)
            yield from numbered(_streamed(reader or []))

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
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict(types),
                include_columns=columns,
                strings_can_be_null=True,
                quoted_strings_can_be_null=quoted_null,
            ),
        )


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
            yield from numbered(_streamed(self._open(stream, schema, "ignore") or []))

    def _open(self, stream: Any, schema: pa.Schema | None, unexpected: str) -> Any:
        """A streaming reader, `None` for a file of blank lines."""
        import pyarrow as pa
        from pyarrow import json

        try:
            return json.open_json(
                stream,
                read_options=json.ReadOptions(use_threads=False, block_size=BLOCK),
                parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
            )
        except pa.ArrowInvalid as empty:
            if "Empty JSON" not in str(empty):
                raise _told(empty) from empty
        return None
