"""Fixes the schema of predictions, by the config or by a first batch, and casts later batches to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class BadPredictions(ValueError):
    """What the predictor returned cannot be the predictions of its batch."""


class DoesNotFit(ValueError):
    """The fixed output schema cannot hold a prediction."""


def parse_schema(types: Mapping[str, str]) -> pa.Schema:
    """Return `predict.output_schema` as an Arrow schema.

    Raises:
        ValueError: Arrow does not know a type name; the message names the column.
    """
    import pyarrow as pa

    return pa.schema([pa.field(name, parse_type(name, spelled)) for name, spelled in types.items()])


def parse_type(name: str, spelled: str) -> pa.DataType:
    """Return the Arrow type that a text names.

    Args:
        name: The column, for messages.
        spelled: Such as `double`, `string`, `timestamp[us]`, `timestamp[us, tz=UTC]`, `decimal(10, 2)`, `list<float>`, or
            `list<float>[384]` for vectors of one length.

    Raises:
        ValueError: Arrow does not know the type; the message names the column.
    """
    import pyarrow as pa

    plain = spelled.replace(" ", "")
    if nested := re.fullmatch(r"list<(?:item:)?(.+)>(?:\[(\d+)\])?", plain):
        inner, size = parse_type(name, nested[1]), nested[2]
        return pa.list_(inner, int(size)) if size else pa.list_(inner)
    if zoned := re.fullmatch(r"timestamp\[(s|ms|us|ns),(?:tz=)?(.+)\]", plain):
        return pa.timestamp(zoned[1], zoned[2])
    try:
        if exact := re.fullmatch(r"decimal(?:128)?\((\d+),(-?\d+)\)", plain):
            return pa.decimal128(int(exact[1]), int(exact[2]))
        return pa.type_for_alias(plain)
    except ValueError:
        raise ValueError(
            f"{name}: {spelled!r} is not a type; expected one such as bool, int64, float, double, string, binary, date32, "
            "timestamp[us], decimal(10, 2), list<double> or list<float>[384]"
        ) from None


def fixed_schema(probed: pa.Schema) -> pa.Schema:
    """Return the schema that a first batch fixes: each type becomes the plain one that later batches can be cast to.

    Raises:
        BadPredictions: The first batch has only nulls in a column.
    """
    import pyarrow as pa

    if nulls := [column.name for column in probed if _is_unknown(column.type)]:
        raise BadPredictions(
            f"the predictions {', '.join(map(repr, nulls))} are all null in the first batch, or empty lists, so their type is not "
            f"known; declare it: predict.output_schema={{{nulls[0]}: double, ...}} (all columns)"
        )
    return pa.schema([pa.field(column.name, plain_type(column.type)) for column in probed])


def _is_unknown(kind: pa.DataType) -> bool:
    """Return whether the type, or one nested in it, is the null type."""
    import pyarrow as pa

    if pa.types.is_nested(kind):
        return any(_is_unknown(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_null(kind) or (pa.types.is_dictionary(kind) and _is_unknown(kind.value_type)))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values without their encoding, such as `string` for a dictionary of strings."""
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if _is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(each.name, plain_type(each.type)) for each in kind])
    plain = {pa.large_string(): pa.string(), pa.string_view(): pa.string()}
    return {**plain, pa.large_binary(): pa.binary(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(kind) for test in tests)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the predictions cast to the fixed schema. Nothing is lost, except that fractions may be rounded to a shorter type.

    Raises:
        BadPredictions: A column is missing or new.
        DoesNotFit: The fixed type cannot hold a value.
    """
    import pyarrow as pa

    if table.schema.equals(schema):
        return table
    if set(table.column_names) != set(schema.names):
        raise BadPredictions(
            f"the predictor returned the columns {table.column_names}, but {schema.names} are fixed by the first batch "
            "or by predict.output_schema"
        )
    return pa.table([_cast(table.column(column.name), column) for column in schema], schema=schema)


def _cast(values: pa.ChunkedArray, column: pa.Field) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        found = _unwrapped(values).cast(column.type)
        if pa.types.is_floating(column.type) and _overflows(values, found):
            raise pa.ArrowInvalid("too large")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as lossy:
        raise DoesNotFit(
            f"prediction {column.name!r} is fixed as {column.type}, and this batch holds {values.type} values that do "
            f"not fit ({str(lossy).splitlines()[0]}); declare a wider type: predict.output_schema={{{column.name}: ...}}"
        ) from lossy
    return found


def _unwrapped(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    return values.cast(values.type.storage_type) if isinstance(values.type, pa.BaseExtensionType) else values


def _overflows(values: pa.ChunkedArray, rounded: pa.ChunkedArray) -> bool:
    """Return whether a finite value became infinite."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(values.type) or values.type.bit_width <= rounded.type.bit_width:
        return False
    return bool(pc.sum(pc.is_inf(rounded)).as_py() != pc.sum(pc.is_inf(values)).as_py())


class NotANumber(ValueError):
    """A prediction is NaN (or null, which is what pandas makes of one)."""


def raise_for_nan(table: pa.Table) -> None:
    """Raise an error if a prediction is NaN.

    Raises:
        NotANumber: One is; the message names its column.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        if any(_has_nan(chunk) for chunk in column.chunks):
            raise NotANumber(f"prediction {name!r} is NaN")


def _has_nan(values: pa.Array) -> bool:
    """Return whether a fraction is NaN or null, at any depth. Values within a null list, map or struct do not count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_struct(kind):
        present = values.drop_null() if values.null_count else values
        return any(_has_nan(field) for field in present.flatten())
    if pa.types.is_map(kind):
        pairs = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        return _has_nan(values.cast(pairs))
    if pa.types.is_nested(kind) and kind.num_fields == 1:
        return _has_nan(pc.list_flatten(values))
    return pa.types.is_floating(kind) and bool(pc.any(pc.is_null(values, nan_is_null=True)).as_py())
