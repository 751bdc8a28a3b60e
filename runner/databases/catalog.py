"""What a database says of a table or a query: its columns and their types, its primary key, and the names of other tables."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.databases.database import execute
from runner.databases.dialects import Dialect
from runner.databases.statements import Piece, pieces
from runner.databases.values import Values

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST_PRECISION = 38  # digits of a decimal in Arrow
AS_TEXT = frozenset({"uuid", "json", "jsonb", "xml"})  # types of PostgreSQL that are read as text
NO_ROW = "(SELECT 1 AS one) AS runner_one LEFT JOIN {} AS runner_rows ON 1 = 0"


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: Its name.
        sql: Its type, as SQL names it; `""` where that is not known.
        arrow: The Arrow type that it is read with; `None` if it cannot be read, or if only its values tell.
        as_text: Whether it is read as text, since the driver does not read its type.
        remedy: The SQL that makes something of it that can be read, where it cannot.
    """

    name: str
    sql: str
    arrow: pa.DataType | None
    as_text: bool = False
    remedy: str = ""


def columns_of(connection: Any, dialect: Dialect, relation: str, values: Values) -> list[Column]:
    """Return the columns of a table or a query.

    Args:
        connection: To the database.
        dialect: Of the database.
        relation: SQL that can stand behind FROM.
        values: That the relation refers to.
    """
    if dialect.name == "sqlite":
        return _of_sqlite(connection, relation)
    bound = values.ready(connection)
    with connection.cursor() as cursor:
        if dialect.name == "postgresql":
            schema = cursor.adbc_execute_schema(f"SELECT * FROM {relation} AS runner_rows")
        else:
            cursor.execute(f"SELECT * FROM {relation} AS runner_rows WHERE 1 = 0", tuple(bound) or None)
            schema = cursor.fetch_arrow_table().schema
    if dialect.name not in {"postgresql", "duckdb"}:
        return [_standard(field, dialect) for field in schema]
    return _typed(connection, dialect, relation, values, schema)


def _typed(connection: Any, dialect: Dialect, relation: str, values: Values, schema: pa.Schema) -> list[Column]:
    names = [f"runner_rows.{dialect.quoted(field.name)}" for field in schema]
    postgresql = dialect.name == "postgresql"
    types = [f"CAST(pg_typeof({name}) AS text)" if postgresql else f"typeof({name})" for name in names]
    kinds = [f"(SELECT typtype FROM pg_type WHERE oid = pg_typeof({name}))::text" for name in names * postgresql]
    asked = ", ".join(f"{each} AS c{i}" for i, each in enumerate([*types, *kinds]))
    told = execute(connection, f"SELECT {asked} FROM {NO_ROW.format(relation)}", values.ready(connection)).to_pylist()[
        0
    ]
    found = [
        (field, told[f"c{i}"], told.get(f"c{i + len(names)}"))
        for i, field in enumerate(schema)
    ]  # fmt: skip
    if postgresql:
        return [_of_postgresql(field, sql, kind, dialect) for field, sql, kind in found]
    return [_standard(field, dialect, sql) for field, sql, _ in found]


def _of_postgresql(field: pa.Field, sql: str, kind: str | None, dialect: Dialect) -> Column:
    import pyarrow as pa

    name = dialect.quoted(field.name)
    if kind == "e" or sql in AS_TEXT:
        return Column(field.name, sql, pa.string(), as_text=True)
    if sql == "numeric":
        digits = _digits(field)
        if digits is not None and digits[0] <= LARGEST_PRECISION and 0 <= digits[1] <= digits[0]:
            return Column(field.name, sql, pa.decimal128(*digits), as_text=True)
        return Column(field.name, sql, None, remedy=f"{name}::double precision")
    remedies = {
        "money": f"{name}::numeric::double precision",
        "interval": f"extract(epoch from {name})::double precision",
        "numeric[]": f"{name}::double precision[]",
    }
    if sql in remedies:
        return Column(field.name, sql, None, remedy=remedies[sql])
    if _is_readable(field.type):
        return Column(field.name, sql, field.type)
    return Column(field.name, sql, None, remedy=f"{name}::text{'[]' if sql.endswith('[]') else ''}")


def _digits(field: pa.Field) -> tuple[int, int] | None:
    """Return precision and scale of a `numeric` column, `None` if it has none."""
    modifier = int((field.metadata or {}).get(b"POSTGRESQL:typmod", b"-1")) - 4
    return None if modifier < 0 else (modifier >> 16, modifier & 0xFFFF)


def _standard(field: pa.Field, dialect: Dialect, sql: str = "") -> Column:
    import pyarrow as pa

    name = dialect.quoted(field.name)
    if pa.types.is_dictionary(field.type):
        return Column(field.name, sql, field.type.value_type)
    if sql == "INTERVAL":
        return Column(field.name, sql, None, remedy=f"epoch({name})")
    if sql == "BIT" or not _is_readable(field.type):
        return Column(field.name, sql, None, remedy=f"CAST({name} AS VARCHAR)")
    if sql.startswith("TIMESTAMP WITH") and pa.types.is_timestamp(field.type):  # whatever the time zone of this machine
        return Column(field.name, sql, pa.timestamp(field.type.unit, "UTC"))
    return Column(field.name, sql, field.type)


def _is_readable(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_union(kind) or pa.types.is_interval(kind):
        return False
    return all(_is_readable(kind.field(i).type) for i in range(kind.num_fields))


# ---------------------------------------------------------------- SQLite, whose columns have no types, only preferences

# Type by what the declared one contains. A column that is declared as BLOB, or as nothing, is `BLOB` in a view: its values tell.
AFFINITIES = ((r"INT", "int64"), (r"CHAR|CLOB|TEXT", "string"), (r"REAL|FLOA|DOUB", "double"))
BY_VALUES = ("integer", "real", "text", "blob")


def _of_sqlite(connection: Any, relation: str) -> list[Column]:
    """Return the columns as they are declared, by way of a view that only this connection knows."""
    import pyarrow as pa

    with connection.cursor() as cursor:
        cursor.execute("DROP VIEW IF EXISTS temp.runner_columns")
        cursor.execute(f"CREATE TEMP VIEW runner_columns AS SELECT * FROM {_values_as_nulls(relation)} AS runner_rows")
    told = execute(
        connection, "SELECT name, type FROM pragma_table_info('runner_columns', 'temp') ORDER BY cid"
    ).to_pylist()
    return [
        Column(each["name"], str(each["type"] or ""), None if kind is None else pa.type_for_alias(kind))
        for each in told
        for kind in [next((kind for part, kind in AFFINITIES if re.search(part, str(each["type"]).upper())), None)]
    ]


def _values_as_nulls(relation: str) -> str:
    """Return SQL with NULL in place of bound values, which a view cannot have."""
    return "".join("NULL" if piece == Piece("sign", "?") else piece.text for piece in pieces(relation))


def types_by_values(
    connection: Any, dialect: Dialect, rows: str, values: Values, columns: Sequence[Column]
) -> dict[str, Any]:
    """Return the Arrow types of SQLite's columns that are declared without one: by all of their values. `None` where these differ.

    Args:
        connection: To the database.
        dialect: SQLite's.
        rows: FROM and WHERE.
        values: That they refer to.
        columns: The ones.
    """
    import pyarrow as pa

    asked = [
        f"max(typeof({dialect.quoted(each.name)}) = '{kind}') AS c{i}_{kind}"
        for i, each in enumerate(columns)
        for kind in BY_VALUES
    ]
    told = execute(connection, f"SELECT {', '.join(asked)} {rows}", values.ready(connection)).to_pylist()[0]
    kinds = {
        ("integer",): pa.int64(), ("real",): pa.float64(), ("integer", "real"): pa.float64(),
        ("text",): pa.string(), ("blob",): pa.binary(),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for i, each in enumerate(columns):
        there = tuple(kind for kind in BY_VALUES if told[f"c{i}_{kind}"])
        found[each.name] = kinds.get(there or (("blob",) if each.sql == "BLOB" else ("text",)))
    return found


# ---------------------------------------------------------------- keys and names


def primary_key(connection: Any, dialect: Dialect, schema: str | None, table: str) -> list[str]:
    """Return the columns of a table's primary key; none if it has none, or if it is not known how this database tells."""
    values = Values(dialect)
    if dialect.name == "postgresql":
        name = values.add(dialect.quoted(schema, table), "text")
        query = (
            "SELECT a.attname::text AS name FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid "
            f"AND a.attnum = ANY(i.indkey) WHERE i.indrelid = to_regclass({name}) AND i.indisprimary"
        )
    elif dialect.name == "sqlite":
        names = ", ".join(values.add(each) for each in (table, schema) if each)
        query = f"SELECT name FROM pragma_table_info({names}) WHERE pk > 0"
    elif dialect.name == "duckdb":
        query = (
            "SELECT unnest(constraint_column_names) AS name FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY' "
            f"AND table_name = {values.add(table)} AND schema_name = coalesce({values.add(schema)}, current_schema()) "
            "AND database_name = current_database()"
        )
    else:
        return []
    return [str(each) for each in execute(connection, query, values.ready(connection)).column("name").to_pylist()]


def tables(connection: Any, dialect: Dialect, schema: str | None) -> list[str]:
    """Return the names of tables and views in a schema, or in all; none if it is not known how this database tells."""
    if dialect.name == "sqlite":
        query = f"SELECT name FROM {dialect.quoted(schema or 'main')}.sqlite_master WHERE type IN ('table', 'view')"
        return [str(each) for each in execute(connection, query).column("name").to_pylist()]
    values = Values(dialect)
    within = f"WHERE table_schema = {values.add(schema, 'text')}" if schema else ""
    with contextlib.suppress(Exception):
        query = f"SELECT CAST(table_name AS VARCHAR(200)) AS name FROM information_schema.tables {within}"
        return [str(each) for each in execute(connection, query, values.ready(connection)).column("name").to_pylist()]
    return []
