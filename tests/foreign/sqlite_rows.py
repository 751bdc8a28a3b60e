"""Rows of tables in an SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from runner.types import Fragment, Input, Reader, Source

TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
BATCH_ROWS = 1_000


@dataclass(frozen=True)
class SqliteRows(Source):
    """The rows of some tables that all have the same columns.

    Attributes:
        path: The file.
        tables: Each is one input.
        where: SQL that a row must fulfil.
        fragment_rows: How many rows are read at once; a shard has one fragment or several.
    """

    path: str
    tables: list[str]
    where: str = "1"
    fragment_rows: int = 10_000

    def settings(self) -> Mapping[str, Any]:
        """Another `where` gives other rows. Where the file lies, and how rows are divided, changes nothing."""
        return {"where": self.where}

    def inputs(self) -> list[Input]:
        """A table may change as a whole; how many rows it has tells here whether it has."""
        with database(self.path) as db:
            counts = [
                db.execute(f"SELECT count(*), max(rowid) FROM {quoted(table)}").fetchone() for table in self.tables
            ]
        return [
            Input(f"{Path(self.path).absolute()}#{table}", count, f"{count} rows to {last}")
            for table, (count, last) in zip(self.tables, counts, strict=True)
        ]

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Fragments that begin at every so many rows, whatever gaps there are between the rows' numbers."""
        with database(self.path) as db:
            fragments = [fragment for each in inputs for fragment in self._fragments(db, each)]
            columns = db.execute(f"PRAGMA table_info({quoted(table_of(inputs[0]))})").fetchall() if inputs else []
        return fragments, pa.schema([(name, TYPES[kind]) for _, name, kind, *_ in columns]) if columns else None

    def _fragments(self, db: sqlite3.Connection, table: Input) -> Iterator[Fragment]:
        numbered = f"SELECT rowid AS id, row_number() OVER (ORDER BY rowid) - 1 AS n FROM {quoted(table_of(table))} WHERE {self.where}"
        groups = f"SELECT min(id), max(id), count(*) FROM ({numbered}) GROUP BY n / ?"
        for first, last, rows in db.execute(groups, (self.fragment_rows,)):
            yield Fragment(table, bytes=100 * rows, rows=rows, first_row=first, span=(first, last))

    def reader(self, schema: pa.Schema) -> Reader:
        """What travels to the workers."""
        return SqliteReader(self.path, self.where, schema)


@dataclass(frozen=True)
class SqliteReader:
    """Reads fragments, in workers."""

    path: str
    where: str
    schema: pa.Schema

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of a fragment, a thousand at a time."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        for rows in self._rows(fragment, schema.names):
            yield pa.Table.from_pydict(dict(zip(schema.names, zip(*rows, strict=True), strict=True)), schema=schema)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """The number of each of these rows, by which it is found again."""
        for rows in self._rows(fragment, ["rowid"]):
            yield from (number for (number,) in rows)

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """The rows of these numbers, to be put aside with their errors."""
        wanted = set(numbers)
        marked = zip(self.positions(fragment), self._each(fragment), strict=True)
        return pa.Table.from_pylist([row for number, row in marked if number in wanted], schema=self.schema)

    def _each(self, fragment: Fragment) -> Iterator[dict[str, Any]]:
        for table in self.read(fragment):
            yield from table.to_pylist()

    def _rows(self, fragment: Fragment, columns: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        names, table = ", ".join(map(quoted, columns)), quoted(table_of(fragment.input))
        query = f"SELECT {names} FROM {table} WHERE ({self.where}) AND rowid BETWEEN ? AND ? ORDER BY rowid"
        with database(self.path) as db:
            cursor = db.execute(query, fragment.span or ())
            while rows := cursor.fetchmany(BATCH_ROWS):
                yield rows


@contextmanager
def database(path: str) -> Iterator[sqlite3.Connection]:
    """The database, to read from. One that is locked may be free later: then it is tried again."""
    try:
        # What yields rows may be closed in another thread than the one that read them.
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)) as db:
            yield db
    except sqlite3.OperationalError as error:
        raise ConnectionError(f"{path}: {error}") from error


def table_of(table: Input) -> str:
    """The table's name, which stands behind the file's."""
    return table.name.rpartition("#")[2]


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever characters it has."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
