"""`sink=sql` when something goes wrong: servers that are down, connections that break, locks, kills. Nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from databases import Fresh
from postgres import PostgresServer, postgres_server
from servers import HOST, free_ports
from sinks.test_foreign_sink import DOUBLED, typed
from sinks.test_sql_sink import count, job, twice, verified
from test_cluster import environment
from test_job import write_input
from test_kill import finished, kill_driver

from runner import ConfigError, Incomplete, SinkRefused, run
from runner.databases.transactions import execute, is_missing, transaction

ONE_TRY = {"errors.max_retries": 0}


@pytest.fixture(autouse=True)
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("database", "postgresql"):
        if name in request.fixturenames:
            monkeypatch.setenv("SINK_URI", request.getfixturevalue(name).uri)


# ---------------------------------------------------------------- a server that does not want to


@pytest.mark.usefixtures("short_waits")
def test_a_server_that_is_down_leaves_the_job_incomplete(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    uri = f"postgresql://{HOST}:{free_ports(1)[0]}/nowhere"
    with pytest.raises(Incomplete, match=r"sink\.table=postgresql://127.*#predictions: cannot be used: .*refused"):
        run(job(tmp_path, **{"sink.uri": uri}))


def test_a_refused_password_is_refused_without_telling_it(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")
    monkeypatch.setenv("SINK_URI", postgres.uri_of("postgres", password="a-wrong-password"))
    with pytest.raises(SinkRefused, match="password authentication failed") as refused:
        run(job(tmp_path))
    assert "a-wrong-password" not in str(refused.value)


def test_a_database_that_is_read_only_is_refused(postgresql: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    name = postgresql.uri.rpartition("/")[2]
    postgresql.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(SinkRefused, match="read-only transaction"):
        run(job(tmp_path))


def test_a_right_that_is_missing_is_told_before_the_model_is_loaded(
    postgres: PostgresServer, postgresql: Fresh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")
    name = postgresql.uri.rpartition("/")[2]
    postgresql.run(
        "CREATE TABLE predictions (twice bigint, _part bigint)",
        f"CREATE ROLE r_{name} LOGIN PASSWORD 'of-a-role'",
        f"GRANT CREATE ON SCHEMA public TO r_{name}",
        f"GRANT SELECT ON predictions TO r_{name}",
    )
    monkeypatch.setenv("SINK_URI", postgres.uri_of(name, f"r_{name}", "of-a-role"))
    given = {"predict.output_schema": {"twice": "int64"}}
    with pytest.raises(ConfigError, match=r"no rows can be written to it: .*permission denied for table predictions"):
        run(job(tmp_path, "raising", **given))
    monkeypatch.undo()
    postgresql.run(f"DROP OWNED BY r_{name}", f"DROP ROLE r_{name}")


@pytest.mark.usefixtures("short_waits")
def test_a_server_without_free_connections_leaves_the_job_incomplete(postgresql: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                stack.enter_context(postgresql.database.connect(reuse=True))
        with pytest.raises(Incomplete, match="too many clients"):
            run(job(tmp_path))
    run(job(tmp_path))
    assert twice(postgresql) == DOUBLED


# ---------------------------------------------------------------- while a part is written

BREAKING = """
CREATE FUNCTION breaking() RETURNS trigger AS $$ BEGIN
IF NEW.twice = 120 AND nextval('tries') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
RETURN NEW; END $$ LANGUAGE plpgsql
"""


@pytest.mark.usefixtures("short_waits")
def test_a_connection_that_breaks_within_a_part_is_tried_again(postgresql: Fresh, tmp_path: Path) -> None:
    postgresql.run(
        "CREATE TABLE predictions (twice bigint, _part bigint)",
        "CREATE SEQUENCE tries",
        BREAKING,
        "CREATE TRIGGER breaking BEFORE INSERT ON predictions FOR EACH ROW EXECUTE FUNCTION breaking()",
    )
    write_input(tmp_path / "in")
    with pytest.raises(Incomplete, match=r"terminating connection|server closed the connection"):
        run(job(tmp_path, **ONE_TRY))
    assert twice(postgresql, "twice >= 100 AND twice < 150") == []
    report = run(job(tmp_path))
    assert report.retries == 1
    assert twice(postgresql) == DOUBLED
    assert verified(job(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
def test_a_server_that_is_killed_and_started_again_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in", files=12)
    with postgres_server() as server:
        monkeypatch.setenv("SINK_URI", server.uri)
        database = Fresh("postgresql", server.uri)
        given = job(tmp_path, "slow", **{"model.seconds": 0.1})

        def crash() -> None:
            wait_for(lambda: marks(database) >= 2)
            server.stop(signal.SIGKILL)

        crashing = threading.Thread(target=crash)
        crashing.start()
        with pytest.raises(Incomplete):
            run(given)
        crashing.join()
        server.start()
        before = marks(database)
        assert 2 <= before < 12
        assert run(given).committed == 12 - before
        assert twice(database) == [2 * x for x in range(300)]
        assert verified(given)


def test_who_holds_the_lock_is_waited_for(database: Fresh, tmp_path: Path) -> None:
    """A part of SQLite and DuckDB waits for another process; one of PostgreSQL for whoever has locked the table."""
    write_input(tmp_path / "in")
    database.run("CREATE TABLE predictions (twice bigint, _part bigint)")
    script = (
        "import sys, time\nfrom runner.databases.database import database_at, execute\n"
        "with database_at('sink', sys.argv[1]).connect() as held:\n"
        "    execute(held, sys.argv[2])\n    print('held', flush=True)\n    time.sleep(1.5)\n"
    )
    statement = (
        "LOCK TABLE predictions" if database.kind == "postgresql" else "INSERT INTO predictions VALUES (-1, NULL)"
    )
    command = [sys.executable, "-c", script, database.uri, statement]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "held\n"
        began = time.monotonic()
        run(job(tmp_path))
        assert holding.wait(30) == 0
    assert time.monotonic() - began > 1
    assert twice(database) == DOUBLED


# ---------------------------------------------------------------- kills, and two runs at once


def marks(database: Fresh) -> int:
    """How many parts are committed. SQLite's journal of a killed writer is rolled back by the next writer, not by one who only reads."""
    try:
        return count(database, "_runner_parts")
    except OSError as error:
        if is_missing(error) or isinstance(error, ConnectionError | PermissionError):
            return 0
        raise


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert running is None or running.poll() is None, running and running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(tmp_path: Path, mode: str) -> subprocess.Popen[str]:
    """The job as a process, with all processes that it starts in a group of their own."""
    given = typed({**job(tmp_path, "slow", **{"model.seconds": 0.1}), "mode": mode})
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *given],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_no_row_is_lost_or_doubled_by_sigkill(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    for committed in (1, 4):
        running = start(tmp_path, "processes")
        wait_for(lambda committed=committed: marks(database) >= committed, running)  # type: ignore[misc]
        kill_driver(running)
    finished(start(tmp_path, "processes"))
    assert twice(database) == [2 * x for x in range(200)]
    assert marks(database) == 8
    assert verified(job(tmp_path, "slow", **{"model.seconds": 0.1}))


@pytest.mark.slow
def test_two_runs_at_once_double_nothing_also_without_the_mark(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    running = [start(tmp_path, "inline") for _ in range(2)]
    while any(each.poll() is None for each in running):
        with contextlib.suppress(OSError), transaction(database.database) as connection:
            execute(connection, "DELETE FROM _runner_records WHERE name = '_runner/mark.json'")
        time.sleep(0.1)
    told = [each.communicate() for each in running]
    assert {each.returncode for each in running} <= {0, 75}, told
    run(job(tmp_path, "slow", **{"model.seconds": 0.1}))
    assert twice(database) == [2 * x for x in range(200)]
    assert verified(job(tmp_path, "slow", **{"model.seconds": 0.1}))
