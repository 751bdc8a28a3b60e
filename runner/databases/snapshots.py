"""Connections that read, several of which see the database as it was at one moment, where it can do that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from runner.databases.database import Database, execute
from runner.databases.errors import DatabaseError, ValueRefused, translated


@contextlib.contextmanager
def exported(database: Database) -> Iterator[str | None]:
    """Yield the name of a snapshot that other connections can read until the block ends; `None` where the database has no such thing."""
    if database.dialect.name != "postgresql":
        yield None
        return
    with database.connect(read_only=True) as connection:
        execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        execute(connection, "SET LOCAL idle_in_transaction_session_timeout = 0")
        yield execute(connection, "SELECT pg_export_snapshot() AS name").column("name")[0].as_py()


@contextlib.contextmanager
def connected(database: Database, snapshot: str | None = None) -> Iterator[Any]:
    """Yield a connection that reads and never writes, of this snapshot if there is one.

    Raises:
        ConnectionError: The snapshot has ended.
    """
    with database.connect(read_only=True) as connection:
        if database.dialect.name == "postgresql":
            execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        if (
            database.dialect.name == "duckdb"
        ):  # otherwise it is that of the machine, and times would be read otherwise on another
            with contextlib.suppress(Exception):
                execute(connection, "SET TimeZone = 'UTC'")
        if snapshot is not None:
            _take(connection, database, snapshot)
        yield connection


def _take(connection: Any, database: Database, snapshot: str) -> None:
    try:
        with translated(database.where):
            execute(connection, f"SET TRANSACTION SNAPSHOT '{snapshot}'")
    except (DatabaseError, ValueRefused) as gone:
        raise ConnectionError(
            f"{database.where}: the snapshot that all workers read has ended, as it does when the driver loses its connection "
            f"to the database; the same command goes on with a new one ({gone})"
        ) from None
