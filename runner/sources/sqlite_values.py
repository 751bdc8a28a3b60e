"""SQLite's values: any column may hold any type. What its driver makes of a column depends on the first rows, unless they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.databases.database import execute
from runner.databases.values import Values
from runner.sources.sql_select import Relation, Select
from runner.types import Fragment, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "mend it, or cast the column: source.query=select CAST(... AS TEXT) ..."
LONGEST = 60  # characters of a value in a message
# Arrow type to what `typeof` may say of a value of it, and to a value that makes the driver take this type.
FITTING = {"int64": ("integer",), "double": ("integer", "real"), "string": ("text",), "binary": ("blob",)}
EXAMPLES = {"int64": "0", "double": "0.0", "string": "''", "binary": "x''"}


def pin(schema: pa.Schema) -> str:
    """Return a SELECT of one row that gives each column its type.

    The driver takes the type of a column from its first values: it would be a number where the first thousand are null, and a text after
    them an error. So this row comes first, and is left out of what is read.
    """
    return f"SELECT {', '.join(EXAMPLES[str(field.type)] for field in schema)}"


def fits(select: Select, schema: pa.Schema) -> str:
    """Return the condition that all values of a row fit these columns."""
    return " AND ".join(_fits(select, field) for field in schema)


def _fits(select: Select, field: pa.Field) -> str:
    kinds = ", ".join(f"'{kind}'" for kind in ("null", *FITTING[str(field.type)]))
    return f"typeof({select.of_row(field.name)}) IN ({kinds})"


def any_misfit(connection: Any, select: Select, fragment: Fragment, schema: pa.Schema) -> bool:
    """Return whether a row of a fragment has a value that does not fit one of these columns."""
    values = Values(select.dialect)
    relation = Relation.named(fragment.input.name).sql(connection, select.dialect, values)
    rows = select.rows(relation, values, fragment, f"NOT ({fits(select, schema)})")
    return bool(execute(connection, f"SELECT 1 {rows} LIMIT 1", values.ready(connection)).num_rows)


def misfits(connection: Any, select: Select, fragment: Fragment, schema: pa.Schema) -> list[Unreadable]:
    """Return the rows of a fragment with a value that does not fit its column, in order. Mostly there is none, which is soon known."""
    if not any_misfit(connection, select, fragment, schema):
        return []
    relation = Relation.named(fragment.input.name)
    values = Values(select.dialect)
    rows = select.rows(relation.sql(connection, select.dialect, values), values, fragment)
    quoted = [select.of_row(each.name) for each in select.columns]
    text = " || ', ' || ".join(f"quote({name})" for name in quoted)
    numbered = f"SELECT ROW_NUMBER() OVER ({select.order(fragment)}) - 1 AS n, {_reason(select, schema)} AS reason, {text} AS row {rows}"
    found = execute(
        connection, f"SELECT * FROM ({numbered}) WHERE reason IS NOT NULL ORDER BY n", values.ready(connection)
    )
    return [Unreadable(fragment.first_row + each["n"], each["row"], each["reason"]) for each in found.to_pylist()]


def _reason(select: Select, schema: pa.Schema) -> str:
    cases = [
        f"WHEN NOT ({_fits(select, field)}) THEN {_literal(f'column {field.name!r} ({field.type}) holds ')} "
        f"|| substr(quote({select.of_row(field.name)}), 1, {LONGEST})"
        for field in schema
    ]
    return f"CASE {' '.join(cases)} END"


def _literal(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
