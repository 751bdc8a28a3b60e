"""Divides the rows of a table or a query into ranges of a key that have about as many rows each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from runner.databases.database import execute
from runner.databases.values import Values
from runner.sources.sql_select import NULLS, RANGE, Relation, Select
from runner.types import Fragment, Input


def ranges(
    connection: Any, relation: Relation, select: Select, whole: Input, key: str | None, fragment_rows: int, unique: bool
) -> list[Fragment]:
    """Return the fragments of an input, in the order of the key; rows whose key is null are the last one.

    The ranges are half-open, and only the last one has an end of its own: rows that come later with larger keys lie in none. Boundaries are
    values that exist, so that equal ones are never parted.

    Args:
        connection: All of its answers are of one snapshot.
        relation: What is divided.
        select: Which of its rows.
        whole: The input that the fragments are of; its size is that of one row.
        key: The column; `None` where there is none to divide by.
        fragment_rows: How many rows a fragment is to have.
        unique: Whether the database promises that no two rows have the same key.
    """
    count = _counted(connection, relation, select, key, unique)
    rows, keyed = count["n"], count["keyed"]
    if not rows:
        return []
    if key is None:
        return [Fragment(whole, rows * whole.size, rows)]
    unique = unique or count["different"] == keyed
    found = _boundaries(connection, relation, select, key, fragment_rows, unique, keyed) if keyed else []
    pieces = list(_between(found, select, key, unique, keyed, whole))
    if rows > keyed:
        pieces.append(Fragment(whole, (rows - keyed) * whole.size, rows - keyed, keyed, (NULLS, key)))
    return pieces


def _counted(connection: Any, relation: Relation, select: Select, key: str | None, unique: bool) -> dict[str, int]:
    name = select.of_row(key) if key else "*"
    different = f"COUNT(DISTINCT {name})" if key and not unique else "0"
    counts = f"SELECT COUNT(*) AS n, COUNT({name}) AS keyed, {different} AS different"
    return _asked(connection, relation, select, lambda rows: f"{counts} {rows}")[0]


def _boundaries(
    connection: Any, relation: Relation, select: Select, key: str, fragment_rows: int, unique: bool, keyed: int
) -> list[dict[str, Any]]:
    """Return the first key of each range with how many rows come before it, and the last key of all."""
    name = select.of_row(key)
    same = select.dialect.name == "sqlite" or _is_whole(select, key)
    bucket = f"before - before % {fragment_rows}"

    def told(key: str) -> str:
        return key if same else f"CAST({key} AS {_text(select)})"

    def statement(rows: str) -> str:
        if unique:
            each = f"SELECT {told(name)} AS k, ROW_NUMBER() OVER (ORDER BY {name}) - 1 AS before, 1 AS n {rows}"
        else:
            counts = f"SELECT {name} AS runner_key, COUNT(*) AS n {rows} GROUP BY {name}"
            before = "CAST(SUM(n) OVER (ORDER BY runner_key) - n AS BIGINT)"
            each = f"SELECT {told('runner_key')} AS k, {before} AS before, n FROM ({counts}) AS runner_counts"
        previous = f"LAG({bucket}) OVER (ORDER BY before)"
        marked = f"SELECT k, before, n, {bucket} AS bucket, {previous} AS previous FROM ({each}) AS runner_keys"
        starts = "previous IS NULL OR bucket <> previous"
        return (
            f"SELECT k, before, CASE WHEN {starts} THEN 1 ELSE 0 END AS starts FROM ({marked}) AS runner_marked "
            f"WHERE {starts} OR before + n = {keyed} ORDER BY before"
        )

    return _asked(connection, relation, select, statement, f"{name} IS NOT NULL")


def _is_whole(select: Select, key: str) -> bool:
    import pyarrow as pa

    kind = select.column(key).arrow
    return kind is not None and bool(pa.types.is_integer(kind))


def _text(select: Select) -> str:
    return "text" if select.dialect.name == "postgresql" else "VARCHAR"


def _between(
    found: list[dict[str, Any]], select: Select, key: str, unique: bool, keyed: int, whole: Input
) -> Iterator[Fragment]:
    starts = [each for each in found if each["starts"]]
    for i, start in enumerate(starts):
        last = i + 1 == len(starts)
        end = found[-1] if last else starts[i + 1]
        rows = (keyed if last else end["before"]) - start["before"]
        span = (RANGE, key, select.column(key).sql, start["k"], end["k"], last, unique)
        yield Fragment(whole, rows * whole.size, rows, start["before"], span)


def _asked(
    connection: Any, relation: Relation, select: Select, statement: Callable[[str], str], condition: str = ""
) -> list[dict[str, Any]]:
    """Execute the statement that is made of FROM and WHERE, and return its rows."""
    values = Values(select.dialect)
    rows = select.rows(relation.sql(connection, select.dialect, values), values, condition=condition)
    found: list[dict[str, Any]] = execute(connection, statement(rows), values.ready(connection)).to_pylist()
    return found
