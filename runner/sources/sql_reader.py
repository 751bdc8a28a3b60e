"""Reads the rows of fragments from a database, in workers."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.databases.database import Database, batches
from runner.databases.snapshots import connected
from runner.databases.values import Values
from runner.errors import ConfigError
from runner.sources import sqlite_values
from runner.sources.sql_select import NULLS, Relation, Select
from runner.types import Fragment, Unreadable
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_BYTES = 4 * 1024**2
OPTIONS = {
    "postgresql": {"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)},
    "sqlite": {"adbc.sqlite.query.batch_rows": "8192"},
}


@dataclass(frozen=True)
class SqlReader:
    """Reads fragments.

    Attributes:
        database: Where they are.
        snapshot: That all workers read, where the database has such a thing.
        select: How rows are selected.
        schema: Names, order and types of the columns that are offered.
        tolerant: Whether a row with a value that does not fit its column is yielded as `Unreadable`.
    """

    database: Database
    snapshot: str | None
    select: Select
    schema: pa.Schema
    tolerant: bool = False

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table | Unreadable]:
        """Yield the rows of a fragment in the order of its key, as the database streams them.

        Raises:
            ConfigError: There are more or fewer rows than when the fragment was planned.
            ConnectionError, TimeoutError: A later try may succeed.
        """
        return self._items(fragment, self._schema_of(self.schema.names if columns is None else columns))

    def _schema_of(self, names: Sequence[str]) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([self.schema.field(name) for name in names])

    def _items(self, fragment: Fragment, wanted: pa.Schema) -> Generator[pa.Table | Unreadable]:
        rows = 0
        with connected(self.database, self.snapshot) as connection:
            misfits = self._misfits(connection, fragment)
            tables = self._tables(connection, fragment, wanted, bool(misfits))
            for item in _merged(tables, misfits, fragment.first_row):
                rows += item.num_rows
                yield item
        _refuse_another_number(fragment, rows)

    def _misfits(self, connection: Any, fragment: Fragment) -> list[Unreadable]:
        if self.select.dialect.name != "sqlite":
            return []
        found = sqlite_values.misfits(connection, self.select, fragment, self.schema)
        if found and not self.tolerant:
            raise ValueError(f"row {found[0].number}: {found[0].reason}; {sqlite_values.REMEDY}")
        return found

    def _tables(self, connection: Any, fragment: Fragment, wanted: pa.Schema, sift: bool) -> Iterator[pa.Table]:
        import pyarrow as pa

        dialect, values = self.select.dialect, Values(self.select.dialect)
        fits = sqlite_values.fits(self.select, self.schema) if sift else ""
        relation = Relation.named(fragment.input.name).sql(connection, dialect, values)
        rows = self.select.rows(relation, values, fragment, fits)
        statement = f"SELECT {', '.join(map(self._expression, wanted))} {rows} {self.select.order(fragment)}"
        pinned = dialect.name == "sqlite"
        if pinned:
            statement = f"{sqlite_values.pin(wanted)} UNION ALL SELECT * FROM ({statement} LIMIT -1)"
        bound, options = values.ready(connection), OPTIONS.get(dialect.name, {})
        for batch in batches(connection, statement, bound, self.database.where, **options):
            found, pinned = batch.slice(int(pinned)), False
            if found.num_rows:
                yield _typed(pa.Table.from_batches([found]), wanted)

    def _expression(self, field: pa.Field) -> str:
        typed = field.name in self.schema.names or str(field.type) != "string"
        return self.select.expression(self.select.column(field.name), typed)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the number of each row that `read` yields: its place in the order of the key, from 0.

        No connection is open while they are asked for: a shard with a bad row asks for one, and goes on for long.
        """
        out = frozenset[int]()
        if self.select.dialect.name == "sqlite":
            with connected(self.database) as connection:
                out = frozenset(row.number for row in self._misfits(connection, fragment))
        last = fragment.first_row + (fragment.rows or 0)
        return (number for number in range(fragment.first_row, last) if number not in out)

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """Return the rows with these numbers, with every column. One that the job does not read, and that has no type here, is text."""
        import pyarrow as pa

        every = self._every(fragment)
        found, number = [every.empty_table()], fragment.first_row
        with contextlib.closing(self._items(fragment, every)) as items:
            for item in items:
                inside = [each - number for each in numbers if number <= each < number + item.num_rows]
                if inside and not isinstance(item, Unreadable):
                    found.append(item.take(inside))
                number += item.num_rows
        return pa.concat_tables(found)

    def _every(self, fragment: Fragment) -> pa.Schema:
        """Return the schema of all columns: those that the job does not read are text if they hold what does not fit them."""
        import pyarrow as pa

        known = {field.name: field for field in self.schema}
        others = pa.schema(
            [(each.name, each.arrow) for each in self.select.columns if each.arrow and each.name not in known]
        )
        loose = self.select.dialect.name == "sqlite" and len(others) > 0 and self._is_loose(fragment, others)
        return pa.schema(
            known.get(each.name) or pa.field(each.name, pa.string() if loose or each.arrow is None else each.arrow)
            for each in self.select.columns
        )

    def _is_loose(self, fragment: Fragment, columns: pa.Schema) -> bool:
        with connected(self.database) as connection:
            return sqlite_values.any_misfit(connection, self.select, fragment, columns)


def _merged(tables: Iterator[pa.Table], misfits: Sequence[Unreadable], number: int) -> Iterator[pa.Table | Unreadable]:
    """Yield tables, and misfits where they belong. The first row of all, of whichever kind, has this number."""
    waiting = deque(misfits)
    for table in tables:
        while waiting and waiting[0].number < number + table.num_rows:
            before = waiting[0].number - number
            if before:
                yield table.slice(0, before)
            table, number = table.slice(before), waiting[0].number + 1
            yield waiting.popleft()
        if table.num_rows:
            yield table
        number += table.num_rows
    yield from waiting


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = []
    for field, column in zip(schema, table.columns, strict=True):
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as wrong:
            raise ValueError(
                f"column {field.name!r} holds a value that is no {field.type}: {first_line(wrong)}; cast it in source.query"
            ) from wrong
    return pa.table(columns, schema=schema)


def _refuse_another_number(fragment: Fragment, rows: int) -> None:
    """Raise an error if a fragment has more or fewer rows than when it was planned."""
    if fragment.rows is not None and rows != fragment.rows:
        raise ConfigError(
            f"{_place(fragment)} has {rows:,} rows now, and had {fragment.rows:,} when it was planned: rows came or went meanwhile. "
            "Bring back what was there, or start over with sink.save_mode=overwrite or another sink.path; to predict what is added every "
            "day, give each day a query of its own with sink.save_mode=append"
        )


def _place(fragment: Fragment) -> str:
    """Return which rows a fragment has, for a message."""
    if not fragment.span:
        return "it"
    kind, key, *ends = fragment.span
    if kind == NULLS:
        return f"the range in which {key} is null"
    _, low, high, closed, _ = ends
    return f"the range of {key} from {low} to {'' if closed else 'before '}{high}"
