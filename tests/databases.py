"""A fresh database of each kind for a test: PostgreSQL, SQLite, DuckDB."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from postgres import PostgresServer

from runner.databases.database import Database, database_at, execute

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("postgresql", "sqlite", "duckdb")
_numbers = itertools.count()


@dataclass(frozen=True)
class Fresh:
    """An empty database, for one test.

    Attributes:
        kind: One of `KINDS`.
        uri: Where it is, with a password if it needs one.
    """

    kind: str
    uri: str

    @property
    def database(self) -> Database:
        """The same, as our own code knows it."""
        return database_at("source", self.uri)

    def run(self, *statements: str) -> None:
        """Execute statements and commit them."""
        with self.database.connect() as connection:
            for each in statements:
                execute(connection, each)
            connection.commit()

    def load(self, table: str, rows: pa.Table | Mapping[str, Sequence[Any]]) -> None:
        """Make a table of these rows, or add them to it. An extension of a dialect is not needed: ADBC does it."""
        import pyarrow as pa

        with self.database.connect() as connection:
            with connection.cursor() as cursor:
                cursor.adbc_ingest(table, pa.table(rows) if isinstance(rows, Mapping) else rows, mode="create_append")
            connection.commit()

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query gives."""
        with self.database.connect(read_only=True) as connection:
            found: list[dict[str, Any]] = execute(connection, query).to_pylist()
            return found


@contextlib.contextmanager
def fresh(kind: str, folder: Path, server: PostgresServer | None) -> Iterator[Fresh]:
    """An empty database of a kind: a file in a folder, or a database of the server, which is dropped afterwards."""
    if kind != "postgresql":
        made = Fresh(kind, f"{kind}:///{folder / 'test.db'}")
        made.run("CREATE TABLE first (a INTEGER)", "DROP TABLE first")
        yield made
        return
    assert server is not None
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _outside(server, f"CREATE DATABASE {name}")
    try:
        yield Fresh(kind, server.uri_of(name))
    finally:
        _outside(server, f"DROP DATABASE {name} WITH (FORCE)")


def _outside(server: PostgresServer, statement: str) -> None:
    """Execute what cannot be part of a transaction."""
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(server.uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
