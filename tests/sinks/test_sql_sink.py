"""`sink=sql`: parts are rows of a table, in PostgreSQL, SQLite and DuckDB."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Runs
from databases import Fresh
from sinks.test_foreign_sink import DOUBLED, typed
from test_job import job as job_of_files
from test_job import write_input

from runner import JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.sinks.sql import SqlTable, sql_table
from runner.testing import check_sink
from runner.types import Fragment, Input, Shard, Written

SCHEMA = pa.schema([("twice", pa.int64())])
TABLE = pa.table({"twice": range(5)}, schema=SCHEMA)
SHARD = Shard(0, "0123456789abcdef", "", (Fragment(Input("a", 1, "1"), 1, 5),))


@pytest.fixture(autouse=True)
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URI, which holds a password, comes from the environment."""
    for name in ("database", "postgresql"):
        if name in request.fixturenames:
            monkeypatch.setenv("SINK_URI", request.getfixturevalue(name).uri)


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    """The job that other tests have, into a table."""
    given = {**job_of_files(tmp_path, loader), "mode": "inline"}
    del given["sink.path"]
    return {**given, "sink": "sql", "sink.uri": "${oc.env:SINK_URI}", "sink.table": "predictions", **more}


def twice(database: Fresh, condition: str = "1 = 1") -> list[int]:
    query = f"SELECT twice FROM predictions WHERE {condition} ORDER BY twice"
    return [row["twice"] for row in database.rows(query)]


def count(database: Fresh, table: str) -> int:
    return int(database.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"])


def verified(given: Mapping[str, Any]) -> bool:
    return main([*typed(given), "action=verify"]) == 0


def sink_in(database: Fresh, **more: Any) -> SqlTable:
    return sql_table(database.uri, "predictions", **more)


# ---------------------------------------------------------------- the promises


def test_it_keeps_the_promises(database: Fresh) -> None:
    check_sink(lambda: sink_in(database))


def test_it_keeps_them_without_a_part_column(postgresql: Fresh) -> None:
    check_sink(lambda: sink_in(postgresql, part_column=None))


def test_of_two_writers_of_a_part_the_second_takes_it_as_done(database: Fresh) -> None:
    sink = sink_in(database)
    sink.prepare(SCHEMA)
    ready = threading.Barrier(2)

    def tables() -> Iterator[pa.Table]:
        yield TABLE
        ready.wait(30)

    found: list[Written] = []
    threads = [
        threading.Thread(target=lambda: found.append(sink.write(SHARD, SCHEMA, tables()))) for _ in range(ready.parties)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [sink.examine(SHARD)] * 2
    assert twice(database) == list(range(5))


# ---------------------------------------------------------------- jobs


def test_every_row_is_in_the_table_once(executor: Runs, postgresql: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path, **{"sink.keep_columns": ["id"]})
    del given["mode"]
    report = executor(given)
    assert twice(postgresql) == DOUBLED
    assert postgresql.rows("SELECT id, _part FROM predictions WHERE twice = 198") == [{"id": "row 99", "_part": 3}]
    assert (report.committed, report.rows_out) == (4, 100)
    assert executor(given).committed == 0
    assert verified({**given, "mode": "inline"})
    assert not (tmp_path / "out").exists(), "all records are in the database"


def test_it_is_resumed_appended_to_and_replaced(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    failing = {"model.value": 80, "model.unless": str(tmp_path / "well")}
    with pytest.raises(JobFailed, match="cannot predict 80"):
        run(job(tmp_path, "failing_on", **failing))
    before = count(database, "_runner_parts")
    assert 0 < before < 4
    (tmp_path / "well").touch()
    assert run(job(tmp_path, "failing_on", **failing)).committed == 4 - before
    assert twice(database) == DOUBLED
    database.run("INSERT INTO predictions (twice) VALUES (-1)")  # somebody else's, which stays

    write_input(tmp_path / "in", files=1, first=4)
    more = job(tmp_path, "failing_on", **failing, **{"sink.save_mode": "append"})
    assert run(more).committed == 1
    assert verified(more)

    given = job(tmp_path, **{"model.factor": 3})
    with pytest.raises(SinkRefused, match="holds the output of another job"):
        run(given)
    assert run({**given, "sink.save_mode": "overwrite"}).committed == 5
    assert twice(database) == [-1, *(3 * x for x in range(125))]
    assert verified(given)
    with pytest.raises(SinkRefused, match="not empty"):
        run({**given, "sink.save_mode": "error"})
