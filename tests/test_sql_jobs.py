"""Jobs on tables and queries of a database: exactly once, resume, append, quarantine, verify, and no password anywhere."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode
from databases import Fresh, fresh
from postgres import PostgresServer
from servers import HOST
from sources.test_sql import ROWS, fill
from test_cluster import _wait_for_parts, environment
from test_job import digests, predicted
from test_kill import finished, kill_driver

from runner import ConfigError, Incomplete, JobFailed, SinkRefused, plan, run
from runner.__main__ import main


@pytest.fixture(autouse=True)
def _where(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The URI holds a password, so it comes from the environment."""
    for name in ("postgresql", "database"):
        if name in request.fixturenames:
            monkeypatch.setenv("WAREHOUSE", request.getfixturevalue(name).uri)


def job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {
        "source": "sql",
        "source.uri": "${oc.env:WAREHOUSE}",
        **({} if "source.query" in more else {"source.table": "rides"}),
        "source.fragment_rows": 15,
        "model": "custom",
        "model._target_": "predictors.doubling",
        "predict.columns": ["x"],
        "shard_bytes": 1_000,
        "batch_size": 10,
        "sink.path": str(tmp_path / "out"),
        **more,
    }


def typed(config: dict[str, Any]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]


def expected(rows: int = ROWS, first: int = 0) -> list[float]:
    return [2.0 * i for i in range(first, first + rows)]


def verified(config: dict[str, Any]) -> bool:
    return main([*typed(config), "action=verify", "verify.deep=true"]) == 0


# ---------------------------------------------------------------- exactly once


@in_every_mode
def test_a_table_is_predicted_once_and_with_the_same_bytes_in_every_mode(
    executor: Runs, tmp_path: Path, postgresql: Fresh
) -> None:
    fill(postgresql)
    report = executor(job(tmp_path))
    assert predicted(tmp_path) == expected()
    assert (report.rows_in, report.committed) == (ROWS, 7)
    assert executor(job(tmp_path)).rows_in == 0
    assert verified(job(tmp_path))
    run(job(tmp_path, mode="inline", **{"sink.path": str(tmp_path / "other")}))
    assert digests(tmp_path) == digests(tmp_path, "other")


def test_every_database_is_resumed_and_verified(tmp_path: Path, database: Fresh) -> None:
    fill(database)
    failing = {"model._target_": "predictors.failing_on", "model.value": 70, "mode": "inline"}
    with pytest.raises(JobFailed, match=r"row 70"):
        run(job(tmp_path, **failing))
    aside = {**failing, "errors": "quarantine"}
    report = run(job(tmp_path, **aside))
    assert (report.rows_out, report.rows_quarantined) < (ROWS, 2)
    assert verified(job(tmp_path, **aside))
    row = pq.read_table(tmp_path / "out/_runner/quarantine").select(["id", "x", "name", "part", "_row"]).to_pylist()
    assert row == [{"id": 210, "x": 70.0, "name": "row 70", "part": 2, "_row": 70}]
    assert "range of id" not in "\n".join(plan(job(tmp_path, **aside)))


def begun(tmp_path: Path, given: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runner", *given, "mode=processes"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_job_on_a_database_survives_its_driver(tmp_path: Path, postgresql: Fresh) -> None:
    fill(postgresql)
    given = typed(job(tmp_path, **{"model._target_": "predictors.slow", "model.seconds": 0.1}))
    running = begun(tmp_path, given)
    _wait_for_parts(tmp_path, 2, running)
    kill_driver(running)
    fill(postgresql, rows=10, first=ROWS)  # behind the last key that is planned
    finished(begun(tmp_path, given))
    assert predicted(tmp_path) == expected()


def test_rows_that_went_before_a_resume_are_refused_by_name(tmp_path: Path, database: Fresh) -> None:
    fill(database)
    failing = {"model._target_": "predictors.failing_on", "model.value": 70, "mode": "inline"}
    with pytest.raises(JobFailed):
        run(job(tmp_path, **failing))
    gc.collect()  # the failed job's reader, which has DuckDB's file open
    database.run("DELETE FROM rides WHERE id IN (213, 216)")
    again = job(tmp_path, **{**failing, "errors": "quarantine"})
    with pytest.raises(JobFailed, match=r"rides.* range of id from 180 to before 225 has 13 rows now, and had 15"):
        run(again)


def test_columns_that_changed_before_a_resume_are_refused(tmp_path: Path, database: Fresh) -> None:
    fill(database)
    run(job(tmp_path, mode="inline"))
    database.run("ALTER TABLE rides ADD COLUMN more INTEGER")
    with pytest.raises(ConfigError, match=r"rides\" changed since it was planned"):
        run(job(tmp_path, mode="inline"))


# ---------------------------------------------------------------- every night


def test_a_query_of_each_day_is_appended_and_a_failed_day_is_made_up_for(tmp_path: Path, database: Fresh) -> None:
    fill(database)

    def night(part: int, **more: Any) -> dict[str, Any]:
        day = {"source.query": "select * from rides where part = :day", "source.params.day": part, "source.key": "id"}
        return job(
            tmp_path, mode="inline", **{**day, "sink.save_mode": "append", "sink.keep_columns": ["part"], **more}
        )

    run(night(0))
    failing = {"model._target_": "predictors.failing_on", "sink.accept": ["model", "model.arguments", "model.code"]}
    with pytest.raises(JobFailed):
        run(night(1, **failing, **{"model.value": 1}))
    run(night(2, **{"sink.accept": ["model", "model.arguments", "model.code"]}))
    parts = predicted(tmp_path, "part")
    assert {part: parts.count(part) for part in sorted(set(parts))} == {0: 25, 1: 20, 2: 25}
    with pytest.raises(SinkRefused, match="predictions of other files"):
        run(night(3, **{"sink.save_mode": "resume"}))
    with pytest.raises(SinkRefused, match=r"source\.filters"):
        run(night(3, **{"source.filters": [["x", ">", 1]]}))


# ---------------------------------------------------------------- trouble


def test_a_database_that_is_down_leaves_the_job_incomplete_and_its_password_untold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind((HOST, 0))
        monkeypatch.setenv("WAREHOUSE", f"postgresql://me:sesame-77@{HOST}:{taken.getsockname()[1]}/shop")
        assert main([*typed(job(tmp_path)), "mode=inline"]) == 75
    said = capsys.readouterr()
    assert "postgresql://me:***@127.0.0.1" in said.err
    kept = [each.read_text(errors="replace") for each in tmp_path.rglob("*") if each.is_file()]
    assert "sesame" not in "".join([said.err, said.out, *kept])


def test_a_password_in_plain_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = job(tmp_path, **{"source.uri": "postgresql://me:sesame-77@db.example/shop"})
    assert main([*typed(given), "mode=inline"]) == 2
    said = capsys.readouterr().err
    assert "oc.env" in said
    assert "sesame" not in said


def test_a_password_is_in_no_record(tmp_path: Path, postgresql: Fresh, postgres: PostgresServer) -> None:
    fill(postgresql)
    run(job(tmp_path, mode="inline"))
    kept = [each.read_bytes() for each in (tmp_path / "out").rglob("*") if each.is_file()]
    assert postgres.password.encode() not in b"".join(kept)


@pytest.mark.usefixtures("short_waits")
def test_a_connection_that_breaks_in_mid_shard_is_tried_again(tmp_path: Path, postgresql: Fresh) -> None:
    fill(postgresql)
    (tmp_path / "once").touch()
    more = {"model._target_": "sql_models.breaking", "model.once": str(tmp_path / "once"), "mode": "inline"}
    report = run(job(tmp_path, **{**more, "model.uri": "${oc.env:WAREHOUSE}", "shard_bytes": None}))
    assert predicted(tmp_path) == expected()
    assert report.retries


@pytest.mark.usefixtures("short_waits")
def test_a_snapshot_that_ends_leaves_the_job_incomplete(tmp_path: Path, postgresql: Fresh) -> None:
    fill(postgresql)
    more = {"model._target_": "sql_models.ending_snapshots", "model.uri": "${oc.env:WAREHOUSE}", "mode": "inline"}
    with pytest.raises(Incomplete, match="the snapshot that all workers read has ended"):
        run(job(tmp_path, **more))
    accept = {"sink.accept": ["model", "model.arguments", "model.code"]}
    run(job(tmp_path, mode="inline", **accept))
    assert predicted(tmp_path) == expected()


def test_a_misfit_of_sqlite_goes_to_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh("sqlite", tmp_path, None) as database:
        fill(database)
        monkeypatch.setenv("WAREHOUSE", database.uri)
        database.run("UPDATE rides SET x = 'many' WHERE id = 30")
        with pytest.raises(JobFailed, match=r"column 'x' \(double\) holds 'many'"):
            run(job(tmp_path, mode="inline"))
        report = run(job(tmp_path, mode="inline", errors="quarantine", **{"errors.max_bad_rows": 1}))
    assert (report.rows_out, report.rows_quarantined) == (ROWS - 1, 1)
    (row,) = pq.read_table(tmp_path / "out/_runner/quarantine").to_pylist()
    assert (row["_row"], row["_raw"]) == (10, "30, 'many', 'row 10', 2")
