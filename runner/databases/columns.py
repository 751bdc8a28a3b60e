"""Which column of a database holds which Arrow type: of a table that is created, and of one that is there.

`held_type` says how values of a type come back once they are stored: what a database returns is compared with what it was given in that
type, so nothing may be lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.arrow.schemas import plain_type
from runner.databases.dialects import Dialect
from runner.databases.errors import DatabaseError
from runner.databases.transactions import rows_of

if TYPE_CHECKING:
    import pyarrow as pa

POSTGRESQL = {
    "int16": "smallint", "int32": "integer", "int64": "bigint", "float": "real", "double": "double precision", "bool": "boolean",
    "string": "text", "binary": "bytea", "date32[day]": "date", "timestamp[us]": "timestamp without time zone",
    "timestamp[us, tz=UTC]": "timestamp with time zone", "time64[us]": "time without time zone",
}  # fmt: skip
DUCKDB = {
    "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "uint8": "UTINYINT", "uint16": "USMALLINT",
    "uint32": "UINTEGER", "uint64": "UBIGINT", "float": "FLOAT", "double": "DOUBLE", "bool": "BOOLEAN", "string": "VARCHAR",
    "binary": "BLOB", "date32[day]": "DATE", "timestamp[us]": "TIMESTAMP", "timestamp[ns]": "TIMESTAMP_NS",
    "timestamp[us, tz=UTC]": "TIMESTAMP WITH TIME ZONE", "time64[us]": "TIME",
}  # fmt: skip
SQLITE = {"int64": "INTEGER", "double": "REAL", "string": "TEXT", "binary": "BLOB"}
STANDARD = {**POSTGRESQL, "string": "VARCHAR", "binary": "VARBINARY", "timestamp[us]": "TIMESTAMP"}
CREATED = {"postgresql": POSTGRESQL, "duckdb": DUCKDB, "sqlite": SQLITE}
TYPES = {
    **{sql: arrow for arrow, sql in POSTGRESQL.items()},
    "character varying": "string",
}
OF_LENGTH = re.compile(r"character varying\((\d+)\)")
EXACT = re.compile(r"numeric\((\d+),(\d+)\)")


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: As the database spells it.
        type: As the database spells it.
        arrow: What it returns; `None` where it cannot be written here.
        required: Whether a row must give it a value: no null is allowed, and there is no default.
        nullable: Whether it may be null.
        most: Characters that a text may have at most.
        generated: Whether the database computes it.
    """

    name: str
    type: str
    arrow: pa.DataType | None
    required: bool = False
    nullable: bool = True
    most: int | None = None
    generated: bool = False


# ---------------------------------------------------------------- a table that is created


def held_type(dialect: Dialect, kind: pa.DataType) -> pa.DataType | None:
    """Return the type in which a column that is created for these values returns them; `None` if there is no such column."""
    import pyarrow as pa

    plain = plain_type(kind)
    if dialect.name == "sqlite":
        return _in_sqlite(plain)
    if pa.types.is_fixed_size_list(plain) and dialect.name == "duckdb":
        inner = held_type(dialect, plain.value_type)
        return inner and pa.list_(inner, plain.list_size)
    if pa.types.is_list(plain) or pa.types.is_fixed_size_list(plain):
        inner = held_type(dialect, plain.value_type)
        flat = inner is not None and (dialect.name == "duckdb" or not pa.types.is_nested(inner))
        return pa.list_(inner) if flat else None
    if pa.types.is_struct(plain) and dialect.name == "duckdb" and plain.num_fields:
        fields = [(each.name, held_type(dialect, each.type)) for each in plain]
        return None if any(inner is None for _, inner in fields) else pa.struct(fields)
    return _scalar(dialect, plain)


def _scalar(dialect: Dialect, kind: pa.DataType) -> pa.DataType | None:
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        exact = kind == pa.timestamp("ns") and dialect.name == "duckdb"
        return kind if exact else pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_decimal128(kind):
        return kind if kind.scale >= 0 else None
    if pa.types.is_integer(kind):
        return kind if str(kind) in CREATED.get(dialect.name, STANDARD) else _signed(kind)
    tests: dict[Callable[[Any], bool], pa.DataType] = {
        pa.types.is_float16: pa.float32(), pa.types.is_date: pa.date32(), pa.types.is_time: pa.time64("us"),
        pa.types.is_fixed_size_binary: pa.binary(), pa.types.is_floating: kind, pa.types.is_boolean: kind,
        pa.types.is_string: kind, pa.types.is_binary: kind,
    }  # fmt: skip
    return next((held for test, held in tests.items() if test(kind)), None)


def _signed(kind: pa.DataType) -> pa.DataType:
    """The smallest signed type with as many bits, and one more where there is one."""
    import pyarrow as pa

    signed = pa.types.is_signed_integer(kind)
    return {8: pa.int16(), 16: pa.int16() if signed else pa.int32(), 32: pa.int32() if signed else pa.int64()}.get(
        kind.bit_width, pa.int64()
    )


def _in_sqlite(kind: pa.DataType) -> pa.DataType | None:
    """SQLite has whole numbers, fractions, texts and bytes; times and exact fractions become texts."""
    import pyarrow as pa

    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind) and not pa.types.is_interval(kind):
        return pa.string()
    if pa.types.is_string(kind) or pa.types.is_decimal128(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) else None


def type_name(dialect: Dialect, held: pa.DataType) -> str:
    """Return how a column is declared that returns this type, which `held_type` gave."""
    import pyarrow as pa

    if pa.types.is_decimal128(held):
        return f"numeric({held.precision}, {held.scale})"
    if pa.types.is_fixed_size_list(held):
        return f"{type_name(dialect, held.value_type)}[{held.list_size}]"
    if pa.types.is_list(held):
        return f"{type_name(dialect, held.value_type)}[]"
    if pa.types.is_struct(held):
        return f"STRUCT({', '.join(f'{dialect.quoted(each.name)} {type_name(dialect, each.type)}' for each in held)})"
    return CREATED.get(dialect.name, STANDARD)[str(held)]


# ---------------------------------------------------------------- a table that is there


def columns_of(connection: Any, dialect: Dialect, schema: str | None, table: str) -> list[Column] | None:
    """Return the columns of a table, `None` if there is no such table."""
    readers = {"postgresql": _of_postgresql, "sqlite": _of_sqlite, "duckdb": _of_duckdb}
    return readers.get(dialect.name, _of_others)(connection, dialect, schema, table) or None


def _of_postgresql(connection: Any, dialect: Dialect, schema: str | None, table: str) -> list[Column]:
    found = rows_of(
        connection,
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, atthasdef OR attidentity <> '', "
        "attgenerated <> '' OR attidentity = 'a', relkind IN ('r', 'p') FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
        "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (dialect.quoted(schema, table),),
    )
    if found and not found[0][-1]:
        raise DatabaseError(f"{table} is a view or something else that has no rows of its own; a table is expected")
    return [
        Column(name, kind, _arrow_of(kind), full and not given, not full, _most(kind), made)
        for name, kind, full, given, made, _ in found
    ]


def _arrow_of(kind: str) -> pa.DataType | None:
    """The Arrow type of a column of PostgreSQL."""
    import pyarrow as pa

    if kind.endswith("[]"):
        inner = _arrow_of(kind.removesuffix("[]"))
        return None if inner is None else pa.list_(inner)
    if exact := EXACT.fullmatch(kind):
        precision, scale = int(exact[1]), int(exact[2])
        return pa.decimal128(precision, scale) if precision <= 38 else None
    if OF_LENGTH.fullmatch(kind):
        return pa.string()
    known = TYPES.get(kind)
    return None if known is None else _named(known)


def _named(arrow: str) -> pa.DataType:
    from runner.arrow.schemas import parse_type

    return parse_type("", arrow.replace("[day]", ""))


def _most(kind: str) -> int | None:
    found = OF_LENGTH.fullmatch(kind.removesuffix("[]"))
    return int(found[1]) if found else None


def _of_sqlite(connection: Any, _: Dialect, __: str | None, table: str) -> list[Column]:
    found = rows_of(
        connection,
        "SELECT name, upper(type), \"notnull\", dflt_value IS NOT NULL OR (pk > 0 AND upper(type) = 'INTEGER'), pk > 0 "
        "FROM pragma_table_info(?)",
        (table,),
    )
    return [
        Column(name, kind, _affinity(kind), bool(full) and not given, not full and not key)
        for name, kind, full, given, key in found
    ]


def _affinity(kind: str) -> pa.DataType | None:
    """What SQLite makes of any value in a column that is declared so; `None` where it depends on the value."""
    import pyarrow as pa

    if "INT" in kind or "BOOL" in kind:
        return pa.int64()
    if any(part in kind for part in ("CHAR", "CLOB", "TEXT", "DATE", "TIME")):
        return pa.string()
    if "BLOB" in kind:
        return pa.binary()
    return pa.float64() if any(part in kind for part in ("REAL", "FLOA", "DOUB")) else None


def _of_duckdb(connection: Any, dialect: Dialect, schema: str | None, table: str) -> list[Column]:
    found = rows_of(
        connection,
        "SELECT column_name, data_type, is_nullable, column_default IS NOT NULL FROM duckdb_columns() WHERE database_name = "
        "current_database() AND schema_name = ? AND lower(table_name) = lower(?) ORDER BY column_index",
        (schema or "main", table),
    )
    if not found:
        return []
    types = _selected(connection, dialect, schema, table)
    return [
        Column(name, kind, arrow, not free and not given, free)
        for (name, kind, free, given), arrow in zip(found, types, strict=True)
    ]


def _selected(connection: Any, dialect: Dialect, schema: str | None, table: str) -> list[pa.DataType]:
    """The types in which a query returns the columns."""
    import pyarrow as pa

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {dialect.quoted(schema, table)} LIMIT 0")
        types = cursor.fetch_arrow_table().schema.types
    return [pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind for kind in types]


def _of_others(connection: Any, _: Dialect, schema: str | None, table: str) -> list[Column]:
    try:
        found = connection.adbc_get_table_schema(table, db_schema_filter=schema)
    except Exception as error:
        if "NOT_FOUND" in str(error):
            return []
        raise
    return [Column(each.name, str(each.type), plain_type(each.type)) for each in found]


# ---------------------------------------------------------------- whether a column that is there holds a type


def holds(dialect: Dialect, column: Column, kind: pa.DataType) -> bool:
    """Return whether a column holds values of a type without loss, except for single values that are too large for it."""
    plain = plain_type(kind)
    if dialect.name == "sqlite":
        held = _in_sqlite(plain)
        return held is not None and column.arrow == held
    return column.arrow is not None and _is_lossless(plain, column.arrow)


def _is_lossless(kind: pa.DataType, column: pa.DataType) -> bool:
    import pyarrow as pa

    listed = (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)) and (
        pa.types.is_list(column) or pa.types.is_fixed_size_list(column)
    )
    if listed:
        return _is_lossless(kind.value_type, column.value_type)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column):
        return bool(kind.tz) == bool(column.tz)
    if pa.types.is_floating(kind) and pa.types.is_floating(column):
        return bool(kind.bit_width <= column.bit_width)
    if pa.types.is_integer(kind) and (pa.types.is_floating(column) or pa.types.is_decimal(column)):
        return True
    alike = (pa.types.is_integer, pa.types.is_date, pa.types.is_time, pa.types.is_decimal)
    binary = pa.types.is_fixed_size_binary(kind) and pa.types.is_binary(column)
    return kind == column or binary or any(test(kind) and test(column) for test in alike)
