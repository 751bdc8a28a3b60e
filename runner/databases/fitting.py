"""Rows as the columns of a table take them, and those rows that they cannot hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate
from runner.arrow.predictions import decode_run_ends
from runner.arrow.schemas import DoesNotFit
from runner.databases.columns import Column
from runner.databases.dialects import Dialect
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa


def fitted(dialect: Dialect, columns: Sequence[Column], table: pa.Table) -> pa.Table:
    """Return the rows in the types of these columns, which are those of the table in its order.

    Raises:
        DoesNotFit: A column cannot hold a value; the message names the column and the row.
    """
    import pyarrow as pa

    table = decode_run_ends(table)
    try:
        arrays = [_cast(dialect, column, table.column(i)) for i, column in enumerate(columns)]
    except pa.ArrowException:
        if bad := refused(dialect, columns, table):
            row = min(bad)
            raise DoesNotFit(f"row {row} of its batch: {bad[row]}") from bad[row]
        raise
    return pa.table(arrays, schema=pa.schema([(column.name, column.arrow) for column in columns]))


def refused(dialect: Dialect, columns: Sequence[Column], table: pa.Table) -> Mapping[int, Exception]:
    """Return the rows, by their number in the table, with a value that its column cannot hold."""
    table = decode_run_ends(table)
    found: dict[int, Exception] = {}
    for i, column in enumerate(columns):
        for each in _unfit(dialect, column, table.column(i)):
            found.setdefault(each.row, each.error)
    return found


def _unfit(dialect: Dialect, column: Column, values: pa.ChunkedArray) -> Iterator[Guilty]:
    """The rows whose value the column cannot hold: found by halving, since Arrow does not say which it is."""

    def attempt(start: int, end: int) -> list[Tried]:
        reason = _reason(dialect, column, values.slice(start, end - start))
        if reason is None:
            return [Good(start, end, None)]
        return [Failed(start, end, DoesNotFit(f"column {column.name} ({column.type}) cannot hold its value: {reason}"))]

    if len(values):
        yield from (each for each in isolate(0, len(values), attempt) if isinstance(each, Guilty))


def _reason(dialect: Dialect, column: Column, values: pa.ChunkedArray) -> str | None:
    """Why the column cannot hold some of these values; `None` if it holds them all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        held = _cast(dialect, column, values)
    except pa.ArrowException as error:
        return first_line(error)
    if held.null_count and not column.nullable:
        return "it is null, and the column is NOT NULL"
    if not pa.types.is_string(held.type):
        return None
    if dialect.name == "postgresql" and any(_has_nul(chunk) for chunk in held.chunks):
        return "PostgreSQL stores no text with a NUL character"
    if column.most is not None and (pc.max(pc.utf8_length(held)).as_py() or 0) > column.most:
        return f"it is longer than {column.most} characters"
    return None


def _has_nul(texts: pa.Array) -> bool:
    """Whether a text has a NUL character. The bytes of all texts are looked through at once, which costs next to nothing."""
    begin, end = texts.offset, texts.offset + len(texts)
    if texts.buffers()[2] is None or begin == end:
        return False
    bounds = memoryview(texts.buffers()[1]).cast("i")
    return b"\0" in bytes(memoryview(texts.buffers()[2])[bounds[begin] : bounds[end]])


def _cast(dialect: Dialect, column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values in the column's type. SQLite has no NaN, which is null there; its times are texts, in UTC."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(values.type, pa.BaseExtensionType):
        values = values.cast(values.type.storage_type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if dialect.name == "sqlite":
        if pa.types.is_timestamp(values.type) and values.type.tz:
            values = values.cast(pa.timestamp(values.type.unit, "UTC"))
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
    return values if values.type == column.arrow else values.cast(column.arrow)
