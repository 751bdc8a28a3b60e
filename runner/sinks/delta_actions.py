"""What a commit to a Delta table says of files: types that the table can hold, and statistics by which readers skip files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

INDEXED_COLUMNS = 32  # of which there are statistics: Delta's own default, so that the log stays small
LONGEST_TEXT = 64  # characters; longer texts have no statistics
PARTITION_KINDS = "texts, whole numbers, dates and booleans"


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The columns in the types that a Delta table has for them, without loss.

    Raises:
        ConfigError: It has none for some columns.
    """
    import pyarrow as pa

    kinds = {column.name: _kept_as(column.type) for column in schema}
    if wrong := [f"{column.name} ({column.type})" for column in schema if kinds[column.name] is None]:
        raise ConfigError(
            f"sink=delta: a Delta table cannot hold {', '.join(wrong)}; cast it in the model, leave it out of sink.keep_columns, "
            "or take sink=parquet"
        )
    return pa.schema(list(kinds.items()))


def _kept_as(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a Delta table keeps every value of a type; `None` if there is none."""
    import pyarrow as pa

    is_ = pa.types
    wider = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.float16(): pa.float32(),
             pa.date64(): pa.date32()}  # fmt: skip
    same = {
        pa.int8(),
        pa.int16(),
        pa.int32(),
        pa.int64(),
        pa.float32(),
        pa.float64(),
        pa.bool_(),
        pa.date32(),
        *wider.values(),
    }
    if is_.is_dictionary(kind) or is_.is_run_end_encoded(kind):
        return _kept_as(kind.value_type)
    if kind in wider or kind in same:
        return wider.get(kind, kind)
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return pa.string()
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind) or is_.is_fixed_size_binary(kind):
        return pa.binary()
    if is_.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    return _nested(kind)


def _nested(kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    if pa.types.is_map(kind):
        pair = _kept_as(kind.key_type), _kept_as(kind.item_type)
        return None if None in pair else pa.map_(*pair)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        value = _kept_as(kind.value_type)
        return None if value is None else pa.list_(value)
    if pa.types.is_struct(kind) and kind.num_fields:
        fields = [(field.name, _kept_as(field.type)) for field in kind]
        return None if None in dict(fields).values() else pa.struct(fields)
    return None


def partition_problem(keys: list[str], schema: pa.Schema) -> str | None:
    """Why a table of this schema cannot be partitioned by these columns; `None` if it can."""
    import pyarrow as pa

    if absent := [key for key in keys if key not in schema.names]:
        has = ", ".join(schema.names)
        return (
            f"there is no column {absent[0]!r} in the output, which has {has}; sink.keep_columns keeps one of the input"
        )
    if len(keys) == len(schema):
        return "every column is in it; at least one must be left for the files"
    good = (pa.types.is_string, pa.types.is_integer, pa.types.is_date, pa.types.is_boolean)
    if wrong := [key for key in keys if not any(is_(schema.field(key).type) for is_ in good)]:
        return f"{wrong[0]} is {schema.field(wrong[0]).type}; a table is partitioned by {PARTITION_KINDS}"
    return None


# ---------------------------------------------------------------- actions


def add_action(path: str, size: int, partition: Mapping[str, str | None], footer: Any) -> Any:
    """The action that adds a Parquet file to a table."""
    from deltalake.transaction import AddAction

    return AddAction(path, size, dict(partition), int(time.time() * 1000), True, json.dumps(statistics(footer)))


def remove_action(path: str, partition: Mapping[str, str | None] | None = None) -> Any:
    """The action that removes a file of ours from a table; it stays where it is until somebody vacuums the table."""
    from deltalake.transaction import RemoveAction

    return RemoveAction(path, True, int(time.time() * 1000), partition_values=dict(partition or {}))


def statistics(footer: Any) -> dict[str, Any]:
    """Rows, and of the first plain columns the nulls, the least and the greatest value, as the footer of a Parquet file tells them.

    Of fractions only the nulls: a footer leaves out NaN, which readers compare with numbers, so they would skip files that have one.
    """
    found: dict[str, Any] = {"numRecords": footer.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for name, index in list(_plain_columns(footer))[:INDEXED_COLUMNS]:
        groups = [footer.row_group(i).column(index).statistics for i in range(footer.num_row_groups)]
        if not groups or any(each is None or not each.has_null_count for each in groups):
            continue
        found["nullCount"][name] = sum(each.null_count for each in groups)
        valued = [each for each in groups if each.num_values]
        if valued and all(each.has_min_max for each in valued):
            try:
                least, most = _least(min(each.min for each in valued)), _most(max(each.max for each in valued))
            except (OverflowError, ValueError):  # a time that Python cannot express, or cannot round up
                continue
            if least is not None and most is not None:
                found["minValues"][name], found["maxValues"][name] = least, most
    return found


def _plain_columns(footer: Any) -> Iterator[tuple[str, int]]:
    """Columns that are no part of another, each with its number in the footer."""
    names = footer.schema.to_arrow_schema().names
    for index in range(footer.num_columns):
        path = footer.schema.column(index).path
        if path in names:
            yield path, index


def _least(value: Any) -> Any:
    """The value as the log has it; `None` where it has none."""
    if isinstance(value, datetime):
        return _moment(value.replace(microsecond=value.microsecond // 1000 * 1000))
    return _plain(value)


def _most(value: Any) -> Any:
    """Likewise. The log's times end at milliseconds, so the greatest one is rounded up."""
    if isinstance(value, datetime):
        return _moment(
            value.replace(microsecond=value.microsecond // 1000 * 1000)
            + timedelta(milliseconds=value.microsecond % 1000 > 0)
        )
    return _plain(value)


def _moment(value: datetime) -> str:
    text = value.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{text}Z" if value.tzinfo else text


def _plain(value: Any) -> Any:
    if type(value) is int:
        return value
    if isinstance(value, str):
        return value if len(value) <= LONGEST_TEXT else None
    return value.isoformat() if isinstance(value, date) else None
