"""`sink=sql`: parts are rows of a table, in PostgreSQL, SQLite and DuckDB."""

from __future__ import annotations

import re
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

from runner import ConfigError, JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.arrow.schemas import parse_type
from runner.sinks.sql import SqlTable, sql_table
from runner.storage.publishing import TakenOver, ask_before_publishing, confirm_at_end
from runner.testing import check_sink
from runner.types import Fragment, Input, Seal, Shard, Written

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


# ---------------------------------------------------------------- what the table is


def test_a_table_that_is_there_is_taken_as_it_is(database: Fresh, tmp_path: Path) -> None:
    kind = {"duckdb": "INTEGER"}.get(database.kind, "integer")
    database.run(
        f'CREATE TABLE "Our ""own"" Table" (note varchar(20) DEFAULT \'by us\', twice {kind} NOT NULL, "Id" varchar(20), _part bigint)'
    )
    database.run('INSERT INTO "Our ""own"" Table" (twice) VALUES (-1)')
    write_input(tmp_path / "in")
    given = job(tmp_path, **{"sink.table": 'Our "own" Table'})
    run(given)
    rows = database.rows('SELECT twice, note FROM "Our ""own"" Table" ORDER BY twice')
    assert [row["twice"] for row in rows] == [-1, *DOUBLED]
    assert {row["note"] for row in rows} == {"by us"}
    assert verified({**given, "sink.table": "'Our \"own\" Table'"})


def test_all_that_is_wrong_with_a_table_is_told_before_the_model_is_loaded(database: Fresh, tmp_path: Path) -> None:
    database.run("CREATE TABLE predictions (twise bigint, id bigint, needed varchar(20) NOT NULL)")
    write_input(tmp_path / "in")
    given = {"predict.output_schema": {"twice": "int64"}, "sink.keep_columns": ["id"]}
    with pytest.raises(ConfigError) as refused:
        run(job(tmp_path, "raising", **given))
    told = str(refused.value)
    for each in (
        "has no column twice (did you mean twise?); add it: ALTER TABLE",
        "its column id is ",
        "which does not hold string without loss; change the column to ",
        "needed: NOT NULL without a default, and nothing gives a value",
        "has no column _part, which tells the part of a row; add it: ALTER TABLE",
    ):
        assert each in told, told
    assert len(refused.value.problems) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sink.write": "upsert"}, "sink.keys: is required with sink.write=upsert"),
        ({"sink.keys": ["id"]}, "sink.keys: has no effect with sink.write=append"),
        ({"sink.part_column": None, "sink.save_mode": "overwrite"}, "sink.save_mode=overwrite: needs sink.part_column"),
        ({"sink.part_column": "twice"}, "sink.part_column=twice: is also the name of a column of the predictions"),
        ({"sink.table": ""}, "sink.table='': expected a name"),
        ({"sink.driver": "adbc_driver_snowflake"}, "this database does not enforce primary keys"),
        ({"sink.uri": "mysql://host/db"}, "sink.uri=mysql://host/db: expected postgresql://"),
        ({"sink.uri": "sqlite:///nowhere/at/all.db"}, "there is no folder for"),
        ({"sink.path": "out"}, "sink.path: no such key"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    write_input(tmp_path / "in")
    given = {**job(tmp_path, **{"sink.uri": "sqlite:///out.db"}), **more}
    with pytest.raises((ConfigError, SinkRefused), match=re.escape(message)):
        run(given)


def test_what_no_column_holds_is_refused(database: Fresh, tmp_path: Path) -> None:
    if database.kind == "duckdb":
        pytest.skip("DuckDB has columns of lists of one length")
    write_input(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"no column of (postgresql|sqlite) holds") as refused:
        run(job(tmp_path, "nested"))
    assert "have the model return a text" in str(refused.value)
    assert count(database, "_runner_parts") == 0


def test_a_view_is_refused(postgresql: Fresh, tmp_path: Path) -> None:
    postgresql.run("CREATE VIEW predictions AS SELECT 1::bigint AS twice, 2::bigint AS _part")
    write_input(tmp_path / "in")
    with pytest.raises(SinkRefused, match="predictions is a view or something else that has no rows"):
        run(job(tmp_path))


def test_types_come_back_as_they_were(database: Fresh) -> None:
    """What is read back has the checksum of what was given, whatever the types; nulls, NaN and the ends of ranges included."""
    columns = {
        "int8": [-128, 127, None], "uint16": [0, 65_535, None], "uint64": [0, 2**63 - 1, None], "float": [0.1, float("nan"), None],
        "double": [1e308, -0.0, None], "bool": [True, False, None], "string": ["", "ü\n'\"", None], "large_string": ["a", "b", None],
        "binary": [b"", b"\0\xff", None], "date32": [0, 20_000, None], "timestamp[us]": [-1, 1, None], "timestamp[ms]": [-1, 1, None],
        "timestamp[us, tz=Europe/Berlin]": [-1, 1, None], "time64[us]": [0, 1, None],
    }  # fmt: skip
    arrays = {
        kind: pa.array(values, parse_type("", kind.removeprefix("large_"))).cast(parse_type("", kind))
        for kind, values in columns.items()
    }
    arrays["decimal"] = pa.array(["1.50", "-0.01", None]).cast(pa.decimal128(10, 2))
    arrays["dictionary"] = pa.array(["a", "b", None]).dictionary_encode()
    if database.kind != "sqlite":
        arrays["vector"] = pa.array([[1.0, None], [], None], pa.list_(pa.float32()))
    table = pa.table(arrays)
    sink = sink_in(database)
    sink.check(table.schema)
    sink.prepare(table.schema)
    assert not sink.refused(table)
    written = sink.write(SHARD, table.schema, iter([table.slice(0, 1), table.slice(1)]))
    assert written.rows == 3
    fresh = sink_in(database)
    assert fresh.examine(SHARD) == written
    fresh.check(table.schema)  # the table that was created holds what it was created for


# ---------------------------------------------------------------- rows that do not fit


def test_only_the_row_that_does_not_fit_is_put_aside(executor: Runs, postgresql: Fresh, tmp_path: Path) -> None:
    postgresql.run("CREATE TABLE predictions (twice smallint, id varchar(6), _part bigint)")
    write_input(tmp_path / "in")
    given = {"model.factor": 400, "sink.keep_columns": ["id"]}  # 400 * 82 is more than 32,767
    with pytest.raises(JobFailed, match=r"row 7: column twice \(smallint\) cannot hold its value: .*32800"):
        executor({key: value for key, value in job(tmp_path, **given).items() if key != "mode"})
    postgresql.run("DELETE FROM predictions", "DELETE FROM _runner_parts", "DELETE FROM _runner_records")
    kept = job(tmp_path, **given, **{"errors": "quarantine", "errors.max_bad_rows": 20})
    report = executor({key: value for key, value in kept.items() if key != "mode"})
    assert (report.rows_out, report.rows_quarantined) == (82, 18)
    assert twice(postgresql) == [400 * x for x in range(82)]
    assert verified(kept)


def test_texts_that_do_not_fit_are_put_aside(postgresql: Fresh) -> None:
    postgresql.run("CREATE TABLE predictions (text varchar(3), number integer NOT NULL, _part bigint)")
    sink = sink_in(postgresql)
    table = pa.table({"text": ["abc", "abcd", "a\0", None, "äöü"], "number": [1, 2, 3, 4, None]})
    sink.prepare(table.schema)
    refused = sink.refused(table)
    assert {row: str(error) for row, error in refused.items()} == {
        1: "column text (character varying(3)) cannot hold its value: it is longer than 3 characters",
        2: "column text (character varying(3)) cannot hold its value: PostgreSQL stores no text with a NUL character",
        4: "column number (integer) cannot hold its value: it is null, and the column is NOT NULL",
    }


def test_a_row_that_breaks_a_constraint_fails_the_job_at_once(database: Fresh, tmp_path: Path) -> None:
    database.run(
        "CREATE TABLE predictions (twice bigint UNIQUE, _part bigint)", "INSERT INTO predictions (twice) VALUES (60)"
    )
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"(?i)unique|duplicate key") as failed:
        run(job(tmp_path, **{"errors.stop_after_failed_shards": 4}))
    assert "predictions" in str(failed.value)
    assert failed.value.report.retries == 0
    assert twice(database, "twice > 49 AND twice < 100") == [60], "nothing of the part is there"
    database.run("DELETE FROM predictions WHERE _part IS NULL")
    run(job(tmp_path))
    assert twice(database) == DOUBLED


# ---------------------------------------------------------------- upsert, and no part column


def test_rows_are_replaced_by_key(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path, **{"sink.write": "upsert", "sink.keys": ["id"], "sink.keep_columns": ["id"]})
    run(given)
    assert twice(database) == DOUBLED
    assert verified(given)
    database.run("INSERT INTO predictions (id, twice) VALUES ('another', -1)")
    other = {**given, "model.factor": 3, "sink.save_mode": "overwrite"}
    assert run(other).committed == 4
    assert twice(database) == [-1, *(3 * x for x in range(100))]
    assert verified(other)
    write_input(tmp_path / "more", files=1, first=3)  # the same rows again, in another file
    (tmp_path / "more/003.parquet").rename(tmp_path / "in/again.parquet")
    more = {**other, "sink.save_mode": "append"}
    assert run(more).committed == 1
    assert twice(database) == [-1, *(3 * x for x in range(100))]
    assert verified(more)


@pytest.mark.usefixtures("database")
def test_two_rows_of_a_part_with_one_key_fail_the_job(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = {"sink.write": "upsert", "sink.keys": ["twice"], "model.factor": 0}
    with pytest.raises(JobFailed, match=r"sink\.keys=\['twice'\]: several rows of one part have the key 0"):
        run(job(tmp_path, **given))


def test_keys_without_a_unique_index_are_refused(database: Fresh, tmp_path: Path) -> None:
    database.run("CREATE TABLE predictions (twice bigint, _part bigint)")
    write_input(tmp_path / "in")
    with pytest.raises((ConfigError, SinkRefused), match=r"sink\.keys=\['twice'\], which need a unique index"):
        run(job(tmp_path, **{"sink.write": "upsert", "sink.keys": ["twice"]}))


def test_without_a_part_column_every_row_is_there_once(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path, **{"sink.part_column": None})
    run(given)
    assert run(given).committed == 0
    assert database.rows("SELECT * FROM predictions LIMIT 1")[0].keys() == {"twice"}
    assert twice(database) == DOUBLED
    assert verified(given)


# ---------------------------------------------------------------- what others do to it

HARMS = {
    "DELETE FROM predictions WHERE twice = 60": "24 rows are there, which are not the 25 that were committed",
    "UPDATE predictions SET twice = 61 WHERE twice = 60": "25 rows are there, which are not the 25",
    "INSERT INTO predictions VALUES (7, 1)": "26 rows are there",
    "DELETE FROM _runner_parts WHERE part = 1": "the part is missing; run the job again",
    "UPDATE _runner_parts SET target = 'other' WHERE part = 1": "the part is missing",
    "UPDATE _runner_parts SET byte_count = 1 WHERE part = 1": "is not what was committed: 1 bytes",
    "DROP TABLE predictions": "the part is missing; run the job again",
}


def test_what_was_done_to_the_table_is_found(
    database: Fresh, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path)
    harms = HARMS if database.kind == "postgresql" else list(HARMS)[1::5]
    for harm in harms:
        run(given)
        database.run(harm)
        assert not verified(given)
        told = capsys.readouterr().out
        assert HARMS[harm] in told, told
        database.run("DELETE FROM _runner_parts", "DELETE FROM _runner_records")
        if "DROP" not in harm:
            with pytest.raises(SinkRefused, match="rows with a _part, of which _runner_parts knows nothing"):
                run(given)
            database.run("DROP TABLE predictions")


def test_a_dropped_table_is_predicted_again(database: Fresh, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path))
    database.run("DROP TABLE predictions")
    assert run(job(tmp_path)).committed == 4
    assert twice(database) == DOUBLED


def test_a_part_of_another_job_is_kept_back(database: Fresh) -> None:
    """The recipe is another one when the part is about to be committed, as after a run that stood still and was taken over."""
    sink = sink_in(database)
    sink.prepare(SCHEMA)
    sink.records.create("_runner/recipe.json", b"theirs")

    def ask() -> None:
        if not sink.records.holds(Seal("_runner/recipe.json", b"ours")):
            raise TakenOver("another run has taken the sink over")

    with ask_before_publishing(ask), pytest.raises(TakenOver):
        sink.write(SHARD, SCHEMA, confirm_at_end(iter([TABLE])))
    assert sink.examine(SHARD) is None
    assert twice(database) == []


def test_a_table_may_lie_in_a_schema(database: Fresh) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite has no schemas")
    database.run('CREATE SCHEMA "My Schema"')
    sink = sink_in(database, schema="My Schema")
    sink.prepare(SCHEMA)
    written = sink.write(SHARD, SCHEMA, iter([TABLE]))
    assert sink.examine(SHARD) == written
    assert count(database, '"My Schema".predictions') == 5
    assert count(database, '"My Schema"._runner_parts') == 1
    with pytest.raises(OSError, match=r"(?i)nowhere"):
        sink_in(database, schema="nowhere").prepare(SCHEMA)
