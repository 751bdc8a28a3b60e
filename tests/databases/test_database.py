"""Connections to real databases: what is shown of a URI, what errors mean, and that no password is ever told."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGKILL

import pytest
from databases import Fresh
from ids import shown
from postgres import PostgresServer, postgres_server
from servers import HOST

from runner import ConfigError
from runner.databases import uris
from runner.databases.database import Database, batches, database_at, execute
from runner.databases.dialects import dialect_named
from runner.databases.errors import DatabaseError, ValueRefused
from runner.storage.transience import is_transient

SECRET = "postgresql://me:pa%2Fss-77@db.example:5433/shop?sslpassword=hush-99&connect_timeout=3&service=x"


def asked(database: Database, *statements: str, read_only: bool = False) -> None:
    with database.connect(read_only) as connection:
        for each in statements:
            execute(connection, each)
        connection.commit()


# ---------------------------------------------------------------- names of places


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mysql://host/db", "expected postgresql://"),
        ("shop.db", "expected postgresql://"),
        ("sqlite://shop.db", r"four before an absolute one: sqlite:///shop\.db"),
        ("sqlite:///:memory:", "expected a file"),
        ("duckdb:///", "expected a file"),
        ("duckdb:///a.db?access_mode=x", "belong to options"),
    ],
    ids=shown,
)
def test_a_uri_that_names_no_database_is_refused(uri: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^source\.uri=.*{problem}"):
        database_at("source", uri)


def test_a_file_is_relative_after_three_slashes_and_absolute_after_four(tmp_path: Path) -> None:
    assert database_at("sink", "sqlite:///a b.db").uri == f"sqlite:///{tmp_path}/a b.db"
    assert database_at("sink", f"duckdb:///{tmp_path}/x/../a.db").uri == f"duckdb:///{tmp_path}/a.db"


def test_nothing_secret_of_a_uri_is_shown() -> None:
    database = database_at("source", SECRET)
    assert "hush" not in database.shown
    assert "pa%2Fss" not in database.shown
    assert database.place == "postgresql://db.example:5433/shop?service=x"
    assert uris.passwords(SECRET) == ["pa%2Fss-77", "pa/ss-77", "hush-99"]
    assert pickle.loads(pickle.dumps(database)) == database


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.databases.database.find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(
        ConfigError, match=r"needs adbc_driver_sqlite, which is not installed: pip install .*\[sqlite\]"
    ):
        database_at("source", "sqlite:///a.db")


def test_names_are_quoted() -> None:
    assert dialect_named("adbc_driver_snowflake").quoted(None, 'a "b"') == '"a ""b"""'
    assert dialect_named("adbc_driver_bigquery").quoted("x", "y`") == "`x`.`y```"
    assert dialect_named("postgresql").placeholders(2, first=3) == ["$3", "$4"]


# ---------------------------------------------------------------- connections


def test_what_is_committed_is_read_and_what_is_not_is_gone(database: Fresh) -> None:
    with database.database.connect() as connection:
        execute(connection, 'CREATE TABLE "a ""b""" (x INTEGER)')
        connection.commit()
        execute(connection, 'INSERT INTO "a ""b""" VALUES (1)')
    assert database.rows('SELECT count(*) AS n FROM "a ""b"""') == [{"n": 0}]


def test_many_batches_are_streamed_with_bound_values(database: Fresh) -> None:
    database.load("t", {"x": range(100_000)})
    one = database.database.dialect.placeholders(1)[0]
    with database.database.connect(read_only=True) as connection:
        found = list(batches(connection, f"SELECT x FROM t WHERE x >= {one}", [5], "source"))
    assert sum(each.num_rows for each in found) == 99_995


def test_a_stream_may_be_closed_before_its_end(database: Fresh) -> None:
    database.load("t", {"x": range(100_000)})
    with database.database.connect(read_only=True) as connection:
        stream = batches(connection, "SELECT x FROM t", [], "source")
        assert next(stream).num_rows
        stream.close()


def test_a_connection_for_reading_refuses_to_write(database: Fresh) -> None:
    database.load("t", {"x": [1]})
    with pytest.raises(PermissionError, match="read"):
        asked(database.database, "INSERT INTO t VALUES (2)", read_only=True)


def test_several_connections_of_a_process_see_one_database(database: Fresh) -> None:
    database.load("t", {"x": [1]})
    with database.database.connect() as first, database.database.connect() as second:
        execute(first, "INSERT INTO t VALUES (2)")
        first.commit()
        assert execute(second, "SELECT count(*) AS n FROM t").to_pylist() == [{"n": 2}]


# ---------------------------------------------------------------- errors


def test_a_statement_that_is_wrong_is_an_error_that_lasts(database: Fresh) -> None:
    with pytest.raises(DatabaseError, match=r"^source\.uri=.*nothere") as raised:
        asked(database.database, "SELECT * FROM nothere")
    assert not is_transient(raised.value)
    assert "Query was" not in str(raised.value)


def test_a_value_that_breaks_a_constraint_is_refused(database: Fresh) -> None:
    database.run("CREATE TABLE t (x INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    with pytest.raises(ValueRefused) as raised:
        asked(database.database, "INSERT INTO t VALUES (1)")
    assert raised.value.constraint


def test_what_other_code_raises_passes(database: Fresh) -> None:
    error = OSError("of somebody else")
    with pytest.raises(OSError, match="of somebody else") as raised, database.database.connect():
        raise error
    assert raised.value is error


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_file_that_is_missing_or_is_no_database_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DatabaseError, match=r"there is no file .*nowhere\.db"):
        asked(database_at("source", f"{kind}:///nowhere.db"), read_only=True)
    (tmp_path / "text.db").write_text("hello " * 1_000)
    with pytest.raises(DatabaseError, match=r"not a"):
        asked(database_at("source", f"{kind}:///text.db"), "SELECT * FROM sqlite_master", read_only=True)


HOLD = """
import sys
from runner.databases.database import database_at, execute
with database_at("source", sys.argv[1]).connect() as connection:
    execute(connection, "INSERT INTO t VALUES (0)")
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_locked_file_may_be_free_later(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.databases.database.BUSY_MILLISECONDS", 50)
    made = Fresh(kind, f"{kind}:///{tmp_path / 'test.db'}")
    made.run("CREATE TABLE t (x INTEGER)")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, made.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConnectionError, match="lock"):
            asked(made.database, "INSERT INTO t VALUES (1)")
        other.communicate("\n")
    asked(made.database, "INSERT INTO t VALUES (1)")


def test_a_refused_password_is_not_told(postgres: PostgresServer) -> None:
    with pytest.raises(PermissionError, match="password authentication failed") as raised:
        asked(database_at("source", postgres.uri_of("postgres", password="wrong-one-123")))
    assert "wrong-one" not in repr(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_right_is_a_permission_error(postgresql: Fresh, postgres: PostgresServer) -> None:
    postgresql.run(
        "CREATE TABLE t (x INTEGER)", "DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'guest-pw'"
    )
    guest = database_at("source", postgres.uri_of(postgresql.database.place.rpartition("/")[2], "guest", "guest-pw"))
    with pytest.raises(PermissionError, match="permission denied for table t"):
        asked(guest, "SELECT * FROM t")


def test_a_missing_database_is_an_error_that_lasts(postgres: PostgresServer) -> None:
    with pytest.raises(DatabaseError, match='"nothere" does not exist'):
        asked(database_at("source", postgres.uri_of("nothere")))


def test_a_server_that_is_down_may_be_up_later() -> None:
    with closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        uri = f"postgresql://me:secret-77@{HOST}:{taken.getsockname()[1]}/x"
        with pytest.raises(ConnectionError, match=r"^source\.uri=postgresql://me:\*\*\*@.*refused") as raised:
            asked(database_at("source", uri))
    assert is_transient(raised.value)


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may take away."""
    with postgres_server() as server:
        yield server


@pytest.mark.slow
def test_a_server_that_is_killed_or_full_may_be_well_later(own_server: PostgresServer) -> None:
    database = database_at("source", own_server.uri)
    rows = "SELECT x, repeat('a', 1000) AS y FROM generate_series(1, 300000) AS x"
    with ExitStack() as stack:
        connection = stack.enter_context(database.connect())
        stream = batches(connection, rows, [], database.where, **{"adbc.postgresql.batch_size_hint_bytes": "65536"})
        next(stream)
        own_server.stop(SIGKILL)
        with pytest.raises(ConnectionError, match="server closed the connection"):
            list(stream)
    own_server.start()
    with ExitStack() as many, pytest.raises(ConnectionError, match="too many clients"):
        _connect_often(database, many)
    with pytest.raises(ConnectionError, match="terminat"):
        asked(database, "SELECT pg_terminate_backend(pg_backend_pid())")


def _connect_often(database: Database, many: ExitStack) -> None:
    for _ in range(40):
        many.enter_context(database.connect())
