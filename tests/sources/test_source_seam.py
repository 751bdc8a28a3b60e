"""What a source promises: every built-in one and one that somebody else wrote keep it, and a job relies on nothing else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from foreign.numbers import Numbers
from foreign.sqlite_rows import SqliteRows, quoted
from sources.test_source_formats import FORMATS, WRITERS
from test_cluster import _wait_for_parts
from test_job import predicted, write_input
from test_kill import finished, kill_driver, start

from runner import ConfigError, JobFailed, SinkRefused, plan, run
from runner.__main__ import main
from runner.sources.demo import Taxi
from runner.sources.files import Files
from runner.sources.formats import FormatName
from runner.testing import check_source
from runner.types import Fragment, Input, Reader, Source

ROWS = 100


def fill(file: Path, table: str = "rides", rows: int = ROWS, first: int = 0) -> None:
    """Rows with gaps between their numbers: every third is deleted."""
    with contextlib.closing(sqlite3.connect(file)) as db, db:
        db.execute(f"CREATE TABLE {quoted(table)} (x INTEGER, name TEXT)")
        db.executemany(
            f"INSERT INTO {quoted(table)} VALUES (?, ?)", [(first + i, f"row {i}") for i in range(rows * 3 // 2)]
        )
        db.execute(f"DELETE FROM {quoted(table)} WHERE rowid % 3 = 0")


def left(rows: int = ROWS, first: int = 0) -> list[int]:
    return [first + i for i in range(rows * 3 // 2) if (i + 1) % 3]


def job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    source = {"path": str(tmp_path / "db"), "tables": ["rides"], "fragment_rows": 15}
    return {
        "source": "custom",
        "source._target_": "foreign.sqlite_rows.SqliteRows",
        **{f"source.{key}": value for key, value in source.items()},
        "model": "custom",
        "model._target_": "predictors.doubling",
        "predict.columns": ["x"],
        "shard_bytes": 3_000,
        "batch_size": 10,
        "sink.path": str(tmp_path / "out"),
        **more,
    }


def typed(config: Mapping[str, Any]) -> list[str]:
    """The same job, as it is typed."""
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]


def twice(values: Sequence[int]) -> list[int]:
    return [2 * value for value in values]


# ---------------------------------------------------------------- the promises themselves


def files(tmp_path: Path, kind: FormatName) -> Source:
    table = pa.table({"x": range(50), "name": [f"row {i}" for i in range(50)]})
    for name in "ab":
        WRITERS[kind](table, tmp_path / f"{name}.{kind}")
    return Files(str(tmp_path), kind)


@pytest.mark.parametrize("kind", FORMATS)
def test_files_keep_the_promises(tmp_path: Path, kind: FormatName) -> None:
    check_source(files(tmp_path, kind))


@pytest.mark.parametrize("filters", [[["x", ">", 30]], [["x", "in", [3, 99]]]], ids=["some", "few"])
def test_filtered_files_keep_the_promises(tmp_path: Path, filters: list[Any]) -> None:
    write_input(tmp_path / "in")
    check_source(Files(str(tmp_path / "in"), "parquet", filters=filters))


def test_the_demo_keeps_the_promises() -> None:
    check_source(Taxi(columns=["passenger_count", "trip_distance"], filters=[["trip_distance", ">", 10]]))


def test_a_source_of_somebody_else_keeps_the_promises(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    fill(tmp_path / "db", 'an "odd" name', 20)
    check_source(SqliteRows(str(tmp_path / "db"), ["rides", 'an "odd" name'], "x > 9", fragment_rows=15))
    check_source(Numbers())


@dataclass(frozen=True)
class Wrong(SqliteRows):
    """Breaks one promise."""

    how: str = ""

    def settings(self) -> Mapping[str, Any]:
        return {"where": object()} if self.how == "settings" else super().settings()

    def inputs(self) -> list[Input]:
        inputs = super().inputs()
        return [*inputs, *inputs] if self.how == "inputs" else inputs

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        fragments, schema = super().inspect(inputs, needed)
        changed: dict[str, Callable[[], list[Fragment]]] = {
            "span": lambda: [replace(each, span=(1, 2)) for each in fragments],
            "rows": lambda: [replace(each, rows=1) for each in fragments],
            "order": lambda: fragments[::-1] if len(inputs) > 1 else fragments,
        }
        return changed.get(self.how, lambda: fragments)(), schema

    def reader(self, schema: pa.Schema) -> Reader:
        return WrongReader(super().reader(schema), self.how)


@dataclass
class WrongReader:
    within: Reader
    how: str
    calls: int = 0

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[Any]:
        self.calls += 1
        table: Any
        for table in self.within.read(fragment, None if self.how == "columns" else columns):
            yield table.slice(1) if self.how == "unsteady" and self.calls > 1 else table

    def positions(self, fragment: Fragment) -> Iterator[int]:
        numbers = list(self.within.positions(fragment))
        if self.how == "from each fragment":
            return iter(range(len(numbers)))
        return iter(numbers[::-1] if self.how == "positions" else numbers)

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        if self.how == "from each fragment":
            own = list(self.within.positions(fragment))
            return self.within.whole_rows(fragment, [own[number] for number in numbers])
        return self.within.whole_rows(fragment, [1] * len(numbers) if self.how == "whole rows" else numbers)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "lock": threading.Lock()} if self.how == "pickle" else vars(self)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("settings", "plain data"),
        ("inputs", "another name"),
        ("span", "must differ in span"),
        ("rows", "the fragment tells 1 rows"),
        ("order", "in the order of the inputs"),
        ("columns", "must give these columns"),
        ("unsteady", "the same rows each time"),
        ("positions", "must ascend"),
        ("whole rows", "the rows of these numbers"),
        ("from each fragment", "within their input, not within their fragment"),
        ("pickle", "must be picklable"),
    ],
)
def test_a_broken_promise_is_named(tmp_path: Path, how: str, message: str) -> None:
    fill(tmp_path / "db")
    fill(tmp_path / "db", "more", 30)
    source = Wrong(str(tmp_path / "db"), ["rides", "more"], fragment_rows=15, how=how)
    with pytest.raises(AssertionError, match=message):
        check_source(source)


# ---------------------------------------------------------------- a job relies on nothing else


def test_rows_of_a_foreign_source_are_predicted_once(executor: Runs, tmp_path: Path) -> None:
    fill(tmp_path / "db")
    report = executor(job(tmp_path))
    assert predicted(tmp_path) == twice(left())
    assert (report.rows_in, report.committed) == (ROWS, 4)
    assert "[1, 22]" in "\n".join(plan(job(tmp_path)))


def test_what_decides_the_rows_of_a_foreign_source_counts(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    run(job(tmp_path, mode="inline"))
    with pytest.raises(SinkRefused, match=r"source\.where"):
        run(job(tmp_path, mode="inline", **{"source.where": "x > 9"}))
    assert run(job(tmp_path, mode="inline", **{"source.fragment_rows": 7})).rows_in == 0


def test_a_further_input_of_a_foreign_source_is_appended(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    run(job(tmp_path, mode="inline"))
    fill(tmp_path / "db", "later", 30, first=500)
    more = {"source.tables": ["rides", "later"], "sink.save_mode": "append", "mode": "inline"}
    assert run(job(tmp_path, **more)).rows_in == 30
    assert predicted(tmp_path) == twice([*left(), *left(30, 500)])
    assert main([*typed(job(tmp_path, **more)), "action=verify", "verify.deep=true"]) == 0


def test_a_foreign_input_that_changed_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    run(job(tmp_path, mode="inline"))
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as db, db:
        db.execute("INSERT INTO rides VALUES (7, 'new')")
    with pytest.raises(ConfigError, match=r"db#rides changed since it was planned"):
        run(job(tmp_path, mode="inline"))


def test_bad_rows_of_a_foreign_source_are_found_again(executor: Runs, tmp_path: Path) -> None:
    fill(tmp_path / "db")
    more = {"model._target_": "predictors.failing_on", "model.value": 70, "errors": "quarantine"}
    report = executor(job(tmp_path, **more))
    aside = pq.read_table(tmp_path / "out/_runner/quarantine")
    assert aside.select(["x", "name", "_row"]).to_pylist() == [{"x": 70, "name": "row 70", "_row": 71}]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (ROWS, ROWS - 1, 1)


@pytest.mark.slow
def test_a_job_on_a_foreign_source_survives_its_driver(tmp_path: Path) -> None:
    fill(tmp_path / "db")
    given = typed({**job(tmp_path), "model._target_": "predictors.slow", "model.seconds": 0.1, "shard_bytes": 1_500})
    running = start(tmp_path, "processes", *given)
    _wait_for_parts(tmp_path, 2, running)
    kill_driver(running)
    finished(start(tmp_path, "processes", *given))
    assert predicted(tmp_path) == twice(left())


# ---------------------------------------------------------------- what a source holds open


def test_a_source_is_held_open_while_it_is_listed_and_read(executor: Runs, tmp_path: Path) -> None:
    fill(tmp_path / "db")
    held = job(tmp_path, **{"source._target_": "foreign.held.Held"})
    plan(held)
    assert executor(held).rows_in == ROWS
    assert not (tmp_path / "db.open").exists()


def test_a_source_that_workers_cannot_import_is_told_at_once(tmp_path: Path, remote: str) -> None:
    more = {"source": "custom", "source._target_": "foreign.unloadable.Unloadable", "model": "custom", "mode": remote}
    with pytest.raises(
        JobFailed, match=r"cannot unpickle its work: ModuleNotFoundError: No module named 'ops'; the code of a source"
    ):
        run({**more, "model._target_": "predictors.doubling", "sink.path": str(tmp_path / "out")})


def test_a_forgotten_method_is_named(tmp_path: Path) -> None:
    given = {"source": "custom", "source._target_": "foreign.lacking.NoReader", "sink.path": str(tmp_path / "out")}
    with pytest.raises(
        ConfigError, match=r"source\._target_=foreign\.lacking\.NoReader: lacks reader, which every source"
    ):
        run({**given, "model": "custom", "model._target_": "predictors.doubling", "mode": "inline"})


def test_a_source_is_held_open_while_a_sweep_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that what is wrong with the data of the second job is told before the first one runs."""
    fill(tmp_path / "db")
    sink = f"{tmp_path}/out/${{hydra:job.num}}"
    given = typed(job(tmp_path, mode="inline", **{"source._target_": "foreign.held.Held", "sink.path": sink}))
    assert main(["-m", *given, "source.tables=[rides],[]"]) == 2
    assert "source.tables=[]: expected a table" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "db.open").exists()
