"""`Database`: where one is, and connections to it over ADBC."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.databases import shared, uris
from runner.databases.dialects import Dialect, dialect_named
from runner.databases.errors import DatabaseError, translated
from runner.errors import ConfigError
from runner.storage.locations import install
from runner.words import secrets

if TYPE_CHECKING:
    import pyarrow as pa

CONNECT_TIMEOUT_SECONDS = 30
VANISHED = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
BUSY_MILLISECONDS = 10_000  # in which whoever has locked an SQLite file must be done
PACKAGES = {"postgresql": "adbc_driver_postgresql", "sqlite": "adbc_driver_sqlite", "duckdb": "duckdb"}
EXTRAS = {"postgresql": "postgres", "sqlite": "sqlite", "duckdb": "duckdb"}


@dataclass(frozen=True)
class Database:
    """A database. It can be pickled; each process connects by itself.

    Attributes:
        uri: Where it is, with the absolute path of a file: made by `database_at`.
        driver: Name or path of an ADBC driver; `None` for the one that the URI needs.
        options: Given to the driver as they are.
        key: The part of the config that names it, for messages: `source` or `sink`.
    """

    uri: str
    driver: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    key: str = "source"

    @property
    def dialect(self) -> Dialect:
        """How its SQL is written."""
        return dialect_named(self.driver or uris.driver_of(self.uri) or "")

    @property
    def shown(self) -> str:
        """Return the URI without secrets, for people."""
        return uris.shown(self.uri)

    @property
    def place(self) -> str:
        """Return where it is, whoever connects to it: what tells it from other databases."""
        return uris.place(self.uri)

    @cached_property
    def where(self) -> str:
        """Return what a message begins with."""
        return f"{self.key}.uri={self.shown}"

    @contextlib.contextmanager
    def connect(self, read_only: bool = False, reuse: bool = False) -> Iterator[Any]:
        """Yield a DBAPI connection of ADBC, with its first transaction begun or about to begin. It is closed afterwards, not committed.

        What the driver raises in the block is translated: see `errors.translated`.

        Args:
            read_only: Whether the database is to refuse statements that write.
            reuse: Whether what this process once learnt of PostgreSQL's types is good enough. Connecting then takes a tenth of the time.
        """
        secrets.learn(uris.passwords(self.uri))
        with translated(self.where), self._connection(read_only, reuse) as connection:
            yield connection

    def _connection(self, read_only: bool, reuse: bool) -> contextlib.AbstractContextManager[Any]:
        kind = None if self.driver else uris.driver_of(self.uri)
        if kind == "postgresql" and reuse:
            return self._reused_postgresql()
        if kind is not None:
            connections = {"postgresql": self._postgresql, "sqlite": self._sqlite, "duckdb": self._duckdb}
            return connections[kind](read_only)
        return self._other()

    def _reused_postgresql(self) -> contextlib.AbstractContextManager[Any]:
        import adbc_driver_manager as manager
        from adbc_driver_manager import dbapi

        shared_database = _opened_postgresql(_with_timeout(self.uri), tuple(self.options.items()), os.getpid())
        return contextlib.closing(dbapi.Connection(shared_database, manager.AdbcConnection(shared_database._db)))

    @contextlib.contextmanager
    def _postgresql(self, read_only: bool) -> Iterator[Any]:
        from adbc_driver_postgresql import dbapi

        with contextlib.closing(dbapi.connect(_with_timeout(self.uri), db_kwargs=dict(self.options))) as opened:
            if read_only:
                execute(opened, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
                opened.commit()
            yield opened

    @contextlib.contextmanager
    def _sqlite(self, read_only: bool) -> Iterator[Any]:
        from adbc_driver_sqlite import dbapi

        path = uris.file_of(self.uri)
        self._refuse_missing(path, read_only)
        with contextlib.closing(dbapi.connect(uris.file_uri(path, "ro" if read_only else "rwc"))) as opened:
            execute(opened, f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
            yield opened

    def _duckdb(self, read_only: bool) -> contextlib.AbstractContextManager[Any]:
        path = uris.file_of(self.uri)
        self._refuse_missing(path, read_only)
        return shared.connection(path, read_only, lambda: self._opened_duckdb(path, read_only))

    def _opened_duckdb(self, path: str, read_only: bool) -> Any:
        from adbc_driver_manager import dbapi

        mode = {"access_mode": "READ_ONLY"} if read_only else {}
        library = find_spec("_duckdb") or find_spec(
            "duckdb.duckdb"
        )  # where the extension module lies depends on the version
        given = {"path": path, **mode, **self.options}
        return dbapi.connect(
            driver=library and library.origin, entrypoint="duckdb_adbc_init", db_kwargs=given, autocommit=True
        )

    def _refuse_missing(self, path: str, read_only: bool) -> None:
        """Raise an error if a file is not there. SQLite's own says that it failed to allocate memory."""
        there = Path(path)
        if not (there.is_file() if read_only else there.parent.is_dir()):
            raise DatabaseError(f"{self.where}: there is no {'file' if read_only else 'folder for'} {path}")

    @contextlib.contextmanager
    def _other(self) -> Iterator[Any]:
        from adbc_driver_manager import dbapi

        with contextlib.closing(
            dbapi.connect(driver=self.driver, uri=self.uri, db_kwargs=dict(self.options))
        ) as opened:
            yield opened


def database_at(key: str, uri: str, driver: str | None = None, options: Mapping[str, str] | None = None) -> Database:
    """Return the database that a config names, without connecting to it.

    Args:
        key: `source` or `sink`.
        uri: `postgresql://host/database`, `sqlite:///relative.db`, `sqlite:////absolute.db`, likewise `duckdb:///`; anything with a
            driver.
        driver: Name or path of an ADBC driver.
        options: Given to the driver.

    Raises:
        ConfigError: The URI is not understood, or a package is not installed.
    """
    if wrong := uris.problem(uri, driver):
        raise ConfigError(f"{key}.uri={uris.shown(uri)}: {wrong}")
    kind = None if driver else uris.driver_of(uri)
    package = PACKAGES[kind] if kind else "adbc_driver_manager"
    if not find_spec(package):
        raise ConfigError(
            f"{key}.uri={uris.shown(uri)}: needs {package}, which is not installed: {install(EXTRAS[kind or 'duckdb'])}"
        )
    return Database(uris.resolved(uri), driver, {name: str(value) for name, value in (options or {}).items()}, key)


@lru_cache(maxsize=8)
def _opened_postgresql(uri: str, options: tuple[tuple[str, str], ...], pid: int) -> Any:  # noqa: ARG001 (a fork opens its own)
    """Return what the driver needs for connections to a database: it has asked for all types that the database has."""
    import adbc_driver_postgresql
    from adbc_driver_manager import dbapi

    return dbapi._SharedDatabase(adbc_driver_postgresql.connect(uri, db_kwargs=dict(options)))


def _with_timeout(uri: str) -> str:
    """Return the URI with limits, unless it gives its own: libpq would wait for minutes for a host that does not answer.

    It would wait for hours for one that vanished while a connection was open. With these limits that is noticed after about a minute.
    """
    given = os.environ.get("PGCONNECT_TIMEOUT")
    limits = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **VANISHED}
    added = [
        f"{name}={value}"
        for name, value in limits.items()
        if name not in uri and not (given and name == "connect_timeout")
    ]
    return f"{uri}{'&' if '?' in uri else '?'}{'&'.join(added)}" if added else uri


def execute(connection: Any, statement: str, values: Sequence[Any] = ()) -> pa.Table:
    """Execute a statement with bound values, and return all of its rows: for small answers.

    A cursor that is still open when its connection is closed is an error, so none leaves this function.
    """
    with connection.cursor() as cursor:
        cursor.execute(statement, tuple(values) or None)
        return cursor.fetch_arrow_table()


def batches(
    connection: Any, statement: str, values: Sequence[Any], where: str, **options: str
) -> Generator[pa.RecordBatch]:
    """Execute a query with bound values, and yield its rows as the driver streams them.

    Args:
        connection: Nothing else may be done with it until the last batch.
        statement: The query.
        values: For its placeholders.
        where: As of `errors.translated`.
        options: Of the driver's statement, such as `adbc.postgresql.batch_size_hint_bytes`.
    """
    with connection.cursor(adbc_stmt_kwargs=options) as cursor:
        with translated(where, streams=True):
            cursor.execute(statement, tuple(values) or None)
            reader = cursor.fetch_record_batch()
        with contextlib.closing(reader):
            while (batch := _next(reader, where)) is not None:
                yield batch


def _next(reader: Any, where: str) -> pa.RecordBatch | None:
    with translated(where, streams=True), contextlib.suppress(StopIteration):
        return reader.read_next_batch()
    return None
