"""What a sink promises: every built-in one and one that somebody else wrote keep it, and a job relies on nothing else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from foreign.sqlite_sink import FILE, SqliteTable
from servers import S3Server
from sinks.test_sink_formats import FORMATS
from test_job import job as job_of_files
from test_job import manifest, write_input
from test_kill import finished, kill_driver, start

from runner import ConfigError, Incomplete, JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.sinks.files import Files, FormatName
from runner.storage.publishing import TakenOver, ask_before_publishing, confirm_at_end
from runner.testing import check_sink
from runner.types import Fragment, Input, Shard, Written

SCHEMA = pa.schema([("twice", pa.int64())])
TABLE = pa.table({"twice": range(5)}, schema=SCHEMA)
SHARD = Shard(0, "0123456789abcdef", "", (Fragment(Input("a", 1, "1"), 1, 5),))


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    """The job that other tests have, into a database."""
    return {
        **job_of_files(tmp_path, loader),
        "sink": "custom",
        "sink._target_": "foreign.sqlite_sink.SqliteTable",
        **more,
    }


def typed(config: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]


def rows(tmp_path: Path, query: str = "SELECT twice FROM predictions ORDER BY twice") -> list[Any]:
    with contextlib.closing(sqlite3.connect(tmp_path / "out" / FILE)) as db:
        return [row[0] for row in db.execute(query)]


def change(tmp_path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "out" / FILE)) as db, db:
        db.execute(statement)


def marks(tmp_path: Path) -> int:
    return len(rows(tmp_path, "SELECT shard FROM parts")) if (tmp_path / "out" / FILE).exists() else 0


def forget(tmp_path: Path, *names: str) -> None:
    """As after a driver that was killed before its end."""
    for name in ("_SUCCESS", *names):
        for path in (tmp_path / "out").rglob(name):
            path.unlink()


DOUBLED = [2 * x for x in range(100)]

# ---------------------------------------------------------------- the promises themselves


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("layout", ["flat", "like_source"])
def test_files_keep_the_promises(tmp_path: Path, fmt: FormatName, layout: Any) -> None:
    check_sink(lambda: Files(fmt, str(tmp_path), layout=layout))


def test_files_in_memory_keep_the_promises(tmp_path: Path) -> None:
    check_sink(lambda: Files("parquet", f"memory:/{tmp_path}"))


def test_files_on_s3_keep_the_promises(s3: S3Server) -> None:
    path = f"s3://{s3.bucket}/{uuid4().hex}"
    check_sink(lambda: Files("jsonl", path, storage_options=s3.storage_options))


def test_a_sink_of_somebody_else_keeps_the_promises(tmp_path: Path) -> None:
    check_sink(lambda: SqliteTable(str(tmp_path)))


@dataclass(frozen=True)
class Wrong(SqliteTable):
    """Breaks one promise."""

    how: str = ""

    def settings(self) -> Mapping[str, Any]:
        return {"format": object()} if self.how == "settings" else super().settings()

    def part(self, shard: Shard) -> str:
        return "part" if self.how == "part" else super().part(shard)

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> Mapping[str, int | None]:
        found = super().committed(shards, names)
        changed: dict[str, Mapping[str, int | None]] = {"forgets": {}, "size": dict.fromkeys(found, 1)}
        return changed.get(self.how, found)

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        if self.how == "half":
            tables = self._whatever_came(shard, schema, tables)
        if self.how == "swallows":
            tables = kept(tables)
        written = super().write(shard, schema, tables)
        return written._replace(rows=None) if self.how == "rows" else written

    def _whatever_came(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        came: list[pa.Table] = []
        try:
            came.extend(tables)
        except EOFError:
            super().write(shard, schema, iter(came))
            raise
        return iter(came)

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        found = super().examine(shard, size)
        return found._replace(checksum="") if found and self.how == "examine" else found

    def remove(self, shards: Sequence[Shard]) -> None:
        if self.how != "remove":
            super().remove(shards)

    def strangers(self, shards: Sequence[Shard]) -> list[str]:
        return [] if self.how == "strangers" else list(super().strangers(shards))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "lock": threading.Lock()} if self.how == "pickle" else vars(self)


def kept(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    with contextlib.suppress(EOFError, TakenOver):
        yield from tables


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("settings", r"settings\(\) must be plain data"),
        ("part", "must call each part by another name"),
        ("forgets", r"committed\(\) must tell a part that was written"),
        ("size", r"committed\(\) tells 1 bytes"),
        ("rows", "must tell the rows of the part: None"),
        ("examine", r"examine\(\) must find what write\(\) told"),
        ("half", r"committed\(\) tells a part whose tables raised"),
        ("swallows", "must raise what its tables raise: EOFError"),
        ("remove", "tells a part that was removed"),
        ("strangers", r"strangers\(\) must tell a part"),
        ("pickle", "must be picklable"),
    ],
)
def test_a_broken_promise_is_named(tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sink(lambda: Wrong(str(tmp_path), how=how))


def test_a_method_that_is_missing_is_named(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(
        ConfigError, match=r"more_sinks\.Partial: lacks committed, examine, remove, write, which every sink"
    ):
        run(job(tmp_path, **{"sink._target_": "foreign.more_sinks.Partial", "mode": "inline"}))


# ---------------------------------------------------------------- one part


def test_of_two_writers_of_a_part_the_second_takes_it_as_done(tmp_path: Path) -> None:
    sink = SqliteTable(str(tmp_path / "out"))
    sink.prepare(SCHEMA)
    ready = threading.Barrier(2)

    def tables() -> Iterator[pa.Table]:
        yield TABLE
        ready.wait(30)  # both have gathered all rows

    found: list[Written] = []
    threads = [
        threading.Thread(target=lambda: found.append(sink.write(SHARD, SCHEMA, tables()))) for _ in range(ready.parties)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [sink.examine(SHARD)] * 2
    assert rows(tmp_path) == list(range(5))


def test_the_sink_is_asked_for_once_and_right_before_a_file_appears(tmp_path: Path) -> None:
    """An object store is asked no more often than before; a sink that uses no folder of ours is asked all the same."""
    asked: list[bool] = []
    files, table = Files("csv", str(tmp_path / "files")), SqliteTable(str(tmp_path / "out"))

    def ended() -> Iterator[pa.Table]:
        yield TABLE
        asked.append(False)

    with ask_before_publishing(lambda: asked.append(True)):
        files.write(SHARD, SCHEMA, confirm_at_end(ended()))
        assert asked == [False, True]
        table.prepare(SCHEMA)
        table.write(SHARD, SCHEMA, confirm_at_end(ended()))
        assert asked[2:] == [False, True, True], "at the end of its tables, and where it asks itself"


def test_a_large_part_is_examined_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.storage.folder import Folder

    for fmt in FORMATS:
        sink = Files(fmt, str(tmp_path / fmt))
        written = sink.write(SHARD, SCHEMA, iter([pa.table({"twice": range(50_000)}, schema=SCHEMA)]))
        with monkeypatch.context() as patch:
            patch.setattr("runner.sinks.files.ONE_REQUEST", 10)
            patch.setattr(Folder, "read", lambda *_: pytest.fail("a large part is not read as a whole"))
            assert sink.examine(SHARD, written.bytes) == sink.examine(SHARD) == written


def test_a_sink_that_lost_rows_is_told(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match="tells of 24 rows in it, and 25 were predicted"):
        run(job(tmp_path, mode="inline", **{"sink._target_": "foreign.more_sinks.Losing"}))


def test_an_error_of_predicting_keeps_its_kind_however_the_sink_wraps_it(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    more = {"sink._target_": "foreign.more_sinks.Wrapping", "model.value": 80, "mode": "inline"}
    with pytest.raises(JobFailed, match="cannot predict 80") as failed:
        run(job(tmp_path, "failing_on", **more))
    assert "database" not in str(failed.value)


# ---------------------------------------------------------------- a job relies on nothing else


def test_every_row_is_in_the_database_once(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path, **{"sink.keep_columns": ["id"]})
    report = executor(given)
    assert rows(tmp_path) == DOUBLED
    assert rows(tmp_path, "SELECT id FROM predictions ORDER BY twice")[:2] == ["row 0", "row 1"]
    assert (report.committed, report.rows_out) == (4, 100)
    assert [part["rows_out"] for part in manifest(tmp_path)["parts"]] == [25] * 4
    assert executor(given).committed == 0
    assert main([*typed(given), "mode=inline", "action=verify", "verify.deep=true"]) == 0


def test_what_is_committed_is_not_predicted_again(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = {"model.value": 80, "model.unless": str(tmp_path / "well"), "mode": "inline"}
    with pytest.raises(JobFailed, match="cannot predict 80"):
        run(job(tmp_path, "failing_on", **given))
    before = marks(tmp_path)
    assert 0 < before < 4
    (tmp_path / "well").touch()
    assert run(job(tmp_path, "failing_on", **given)).committed == 4 - before
    assert rows(tmp_path) == DOUBLED


def test_parts_whose_receipts_were_lost_are_examined(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    before = manifest(tmp_path)
    forget(tmp_path, "manifest.json", "receipts-*")
    assert run(job(tmp_path, mode="inline")).committed == 0
    assert manifest(tmp_path) == before
    forget(tmp_path, "receipts-*")
    change(tmp_path, "DELETE FROM predictions WHERE twice = 6")
    with pytest.raises(JobFailed, match=r"is damaged \(ValueError: 24 rows are there"):
        run(job(tmp_path, mode="inline"))


def test_further_input_is_appended(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    write_input(tmp_path / "in", files=2, first=4)
    more = {"sink.save_mode": "append", "mode": "inline"}
    assert run(job(tmp_path, **more)).committed == 2
    assert rows(tmp_path) == [2 * x for x in range(150)]
    assert main([*typed(job(tmp_path, **more)), "action=verify"]) == 0


def test_an_output_is_replaced_also_by_one_with_other_columns(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    kept = {"sink.keep_columns": ["x"], "mode": "inline"}
    with pytest.raises(SinkRefused, match=r"sink\.keep_columns"):
        run(job(tmp_path, **kept))
    run(job(tmp_path, **kept, **{"sink.save_mode": "overwrite"}))
    assert rows(tmp_path) == DOUBLED
    assert rows(tmp_path, "SELECT x FROM predictions ORDER BY x") == list(range(100))
    with pytest.raises(SinkRefused, match="not empty"):
        run(job(tmp_path, **kept, **{"sink.save_mode": "error"}))


def test_plans_are_published_between_manifest_and_success_also_after_a_failure(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = job(
        tmp_path, mode="inline", **{"sink._target_": "foreign.more_sinks.Publishing", "sink.save_mode": "append"}
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_closed").touch()
    with pytest.raises(Incomplete, match="the catalog does not answer"):
        run(given)
    (tmp_path / "out/_closed").unlink()
    assert run(given).committed == 0
    run(given)
    write_input(tmp_path / "in", files=1, first=4)
    run(given)
    published = [json.loads(line) for line in (tmp_path / "out/_published").read_text().splitlines()]
    assert published == [[0, [25] * 4], [0, [25] * 4], [1, [25]]]


def test_predictions_that_are_no_files_are_read_elsewhere(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = run(job(tmp_path, mode="inline"))
    with pytest.raises(RuntimeError, match="the predictions are no files: SqliteTable wrote them"):
        report.to_arrow()


def test_bad_rows_go_to_quarantine_beside_the_database(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    more = {"model.values": [3, 40], "errors": "quarantine", "errors.max_bad_rows": 5, "mode": "inline"}
    report = run(job(tmp_path, "poisoned", **more))
    assert (report.rows_out, report.rows_quarantined) == (98, 2)
    assert sorted(pq.read_table(tmp_path / "out/_runner/quarantine")["x"].to_pylist()) == [3, 40]
    assert main([*typed(job(tmp_path, "poisoned", **more)), "action=verify"]) == 0


def test_what_its_columns_cannot_hold_is_refused_before_a_part_is_written(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"an SQLite table cannot hold \w+ \("):
        run(job(tmp_path, "vectors", mode="inline"))
    assert marks(tmp_path) == 0


HARMS = {
    "DELETE FROM parts WHERE rowid = 2": "the part is missing; run the job again",
    "DELETE FROM predictions WHERE twice = 60": "is damaged (ValueError: 24 rows are there",
    "UPDATE predictions SET twice = 61 WHERE twice = 60": "is damaged",
    "UPDATE parts SET bytes = 1 WHERE rowid = 2": "is not what was committed: 1 bytes",
    "INSERT INTO parts VALUES ('another', 1, '', 1)": f"{FILE}: part another: is not ours",
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_done_to_the_database_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    write_input(tmp_path / "in")
    given = job(tmp_path, mode="inline")
    run(given)
    change(tmp_path, harm)
    assert main([*typed(given), "action=verify"]) == 1
    told = capsys.readouterr().out
    assert HARMS[harm] in told, told
    if harm.startswith("DELETE FROM parts"):
        assert run(given).committed == 1
        assert rows(tmp_path) == DOUBLED, "the rows that had lost their mark are replaced"


def test_a_part_of_another_job_is_kept_back(tmp_path: Path) -> None:
    """The recipe is swapped while a shard is predicted, as by a run that took over one that stood still."""
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline", **{"sink.path": str(tmp_path / "theirs"), "model.factor": 3}))
    swapping = {"from_": str(tmp_path / "theirs/_runner/recipe.json"), "to": str(tmp_path / "out/_runner/recipe.json")}
    given = {f"model.{name}": value for name, value in {**swapping, "value": 40}.items()}
    with pytest.raises(Incomplete, match="another run has taken the sink over"):
        run(job(tmp_path, "swapping", mode="inline", **given, **{"errors.max_lost_workers": 0}))
    assert not {2 * x for x in range(80, 100)} & set(rows(tmp_path))


@pytest.mark.slow
def test_no_row_is_lost_or_doubled_by_sigkill(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    given = typed(job(tmp_path, "slow", **{"model.seconds": 0.1}))
    for committed in (1, 4):
        running = start(tmp_path, "processes", *given)
        wait_for_marks(tmp_path, committed, running)
        kill_driver(running)
    finished(start(tmp_path, "processes", *given))
    assert rows(tmp_path) == [2 * x for x in range(200)]
    assert marks(tmp_path) == 8


def wait_for_marks(tmp_path: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while marks(tmp_path) < count:
        assert running.poll() is None, "the job ended early"
        assert time.monotonic() < deadline, "no part appeared"
        time.sleep(0.05)
