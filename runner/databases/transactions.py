"""Connections for writing, and transactions of a thread: what is asked while one is open is answered within it.

A part is committed only if the sink is still this run's. That question is about a row of a table of ours, and it is asked while the part's
own transaction is open. On a connection of its own it would see an older answer, and SQLite and DuckDB, which have one writer, might let it
wait for the very transaction that waits for it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from runner.databases import uris
from runner.databases.database import Database
from runner.databases.errors import DatabaseError, ValueRefused

PATIENCE_SECONDS = 60  # in which whoever holds a lock must be done
LONGEST_NAP_SECONDS = 0.05
MISSING = ("42P01", "3F000")  # SQLSTATE of a table, or a schema, that is not there
_open: ContextVar[tuple[str, Any] | None] = ContextVar("open", default=None)


@contextlib.contextmanager
def connected(database: Database) -> Iterator[Any]:
    """Yield a connection. DuckDB lets one process at a time have its file: its turn is waited for."""
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                connection = stack.enter_context(database.connect(reuse=True))
                break
            except ConnectionError:
                if database.dialect.name != "duckdb" or time.monotonic() > until:
                    raise
            time.sleep(random.uniform(0, LONGEST_NAP_SECONDS))
        yield connection


@contextlib.contextmanager
def transaction(database: Database) -> Iterator[Any]:
    """Yield a connection, which is committed at the end of the block, and rolled back if that raises."""
    with connected(database) as connection:
        if database.dialect.name == "postgresql":
            execute(connection, f"SET LOCAL lock_timeout = '{PATIENCE_SECONDS}s'")
        if database.dialect.name == "sqlite":
            _set_patience(connection)
        token = _open.set((database.uri, connection))
        try:
            yield connection
            connection.commit()
        except BaseException:
            with contextlib.suppress(Exception):  # the server rolls back what was on a connection that is lost
                connection.rollback()
            raise
        finally:
            _open.reset(token)


def _set_patience(connection: Any) -> None:
    rows_of(connection, f"PRAGMA busy_timeout = {1000 * PATIENCE_SECONDS}")
    connection.rollback()


@contextlib.contextmanager
def joined(database: Database) -> Iterator[Any]:
    """Yield the connection whose transaction this thread has open, or else a new one."""
    opened = _open.get()
    if opened is not None and opened[0] == database.uri:
        yield opened[1]
        return
    with connected(database) as connection:
        yield connection


def execute(connection: Any, statement: str, values: Sequence[Any] | None = None) -> None:
    """Execute a statement that returns no rows."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def rows_of(connection: Any, statement: str, values: Sequence[Any] | None = None) -> list[Any]:
    """Return all rows that a statement gives, which must be few."""
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return list(cursor.fetchall())


def is_there(database: Database) -> bool:
    """Return whether there is a database to read from: a file may still have to be created, which no reader does."""
    path = uris.file_of(database.uri) if database.dialect.name in {"sqlite", "duckdb"} else ""
    return not path or Path(path).is_file()


def is_missing(error: Exception) -> bool:
    """Return whether a statement failed because a table or its schema is not there."""
    state, text = getattr(error, "sqlstate", ""), str(error)
    return isinstance(error, DatabaseError) and (
        state in MISSING or "no such table" in text or ("does not exist" in text and "Table with name" in text)
    )


def is_taken(error: Exception) -> bool:
    """Return whether a statement failed because a unique key is taken."""
    return isinstance(error, ValueRefused) and error.constraint
