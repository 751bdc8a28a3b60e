"""Reads a format whose files store columns in other types than `source.column_types` wants: cast without loss, row by row where need be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate
from runner.sources.formats import FileContents, Format, Items, divide
from runner.sources.text import declared_types
from runner.types import Fragment, Input, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "source.column_types"


@dataclass(frozen=True)
class Cast:
    """A format that stores types, with other types for some columns.

    Attributes:
        format: Reads the files.
        column_types: Column to Arrow type name.
        tolerant: Whether a row with a value that the type cannot hold is yielded as `Unreadable`; else it is an error of the file.
    """

    format: Format
    column_types: Mapping[str, str]
    tolerant: bool = False

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Return what is in the file, with the types that were asked for."""
        import pyarrow as pa

        contents = self.format.inspect(file, options)
        stored, wanted = contents.schema or pa.schema([]), declared_types(self.column_types)
        unusable = {
            column.name: f"is {column.type}, which cannot be cast to {KEY}={{{column.name}: {wanted[column.name]}}}"
            for column in stored
            if column.name in wanted and not _is_castable(column.type, wanted[column.name])
        }
        cast = [column.with_type(wanted.get(column.name, column.type)) for column in stored]
        schema = contents.schema and pa.schema(cast)
        return contents._replace(schema=schema, unusable={**contents.unusable, **unusable})

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return what the format gives."""
        return divide(self.format, fragment, options, most_bytes, most_rows)

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002 - statistics are of the stored types
    ) -> Items:
        """Yield what the format reads, with the types of the schema."""
        before: int | None = (
            None  # rows of the file before the first that the format numbers; counted only for a message
        )
        wanted = {column.name: column.type for column in schema if column.name in self.column_types}
        for first, table in self.format.read(fragment, schema, options, None):
            if isinstance(table, Unreadable):
                yield first, table
                continue
            for each in _cast_around_bad_rows(table, wanted):
                if isinstance(each, Good):
                    yield first + each.start, each.result
                    continue
                before = self.rows_before(fragment, options, schema) if before is None else before
                reason = f"row {before + first + each.row}: {each.error}"
                if not self.tolerant:
                    raise ValueError(reason) from each.error
                yield first + each.row, Unreadable(first + each.row, _as_text(table, each.row), reason)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
        """Return how many rows of the file come before those that the format numbers from 0."""
        if fragment.span is None or not hasattr(self.format, "rows_before"):
            return 0
        return int(self.format.rows_before(fragment, options, schema))

    def row_texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """Return the rows of these numbers as JSON."""
        contents, found = self.format.inspect(file, options), dict[int, str]()
        for fragment in contents.fragments:
            for first, table in self.format.read(replace(fragment, rows=None), contents.schema, options, None):
                inside = (number for number in numbers if first <= number < first + table.num_rows)
                found.update((number, _as_text(table, number - first)) for number in inside)
        return found


def _as_text(table: Any, row: int) -> str:
    return json.dumps(table.slice(row, 1).to_pylist()[0], ensure_ascii=False, default=str)


def _is_castable(stored: pa.DataType, wanted: pa.DataType) -> bool:
    import pyarrow as pa

    try:
        pa.array([], stored).cast(wanted)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError):
        return False
    return True


def _cast_around_bad_rows(table: Any, wanted: Mapping[str, pa.DataType]) -> Iterator[Good | Guilty]:
    """Yield the table, cast, in pieces around the rows with values that the types cannot hold."""

    def attempt(start: int, end: int) -> list[Tried]:
        try:
            return [Good(start, end, _cast(table.slice(start, end - start), wanted))]
        except ValueError as error:
            return [Failed(start, end, error)]

    return isolate(0, table.num_rows, attempt) if table.num_rows else iter(())


def _cast(table: pa.Table, wanted: Mapping[str, pa.DataType]) -> pa.Table:
    """Return the table with these types.

    Raises:
        ValueError: A value cannot be cast without loss; of a table of one row, the message names the column and the value.
    """
    import pyarrow as pa

    for i, name in enumerate(table.column_names):
        column = table.column(i)
        if name not in wanted or column.type == wanted[name]:
            continue
        try:
            table = table.set_column(i, name, cast_without_loss(column, wanted[name]))
        except pa.ArrowException as error:
            value = str(column[0]) if len(column) else ""
            raise ValueError(f"column {name!r}: {value} ({column.type}) does not fit {wanted[name]} ({KEY})") from error
    return table


def cast_without_loss(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return the values in another type.

    pyarrow refuses what overflows and what would be cut off, but rounds between fractions, cuts times off, and takes every number but 0
    for true: these are cast back and compared. So are the values of lists.

    Raises:
        ArrowInvalid: A value would change.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cast = column.cast(kind)
    both = column.type, kind
    if all(map(_is_list, both)):
        cast_without_loss(pc.list_flatten(column), kind.value_type)
    to_bool = pa.types.is_boolean(kind) and (_is_fraction(column.type) or pa.types.is_integer(column.type))
    if to_bool or all(map(_is_fraction, both)) or all(map(pa.types.is_temporal, both)):
        same = pc.equal(cast.cast(column.type, safe=False), column)
        if pa.types.is_floating(column.type):
            same = pc.or_(same, pc.is_nan(column))
        if pc.all(same).as_py() is False:
            raise pa.ArrowInvalid("a value would be rounded")
    return cast


def _is_fraction(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
