"""The sink `delta`: a plan is one commit; readers see all of it or nothing, whatever is killed, compacted or vacuumed in between."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import delta_log
import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from deltalake import DeltaTable, write_deltalake
from servers import S3Server
from test_cluster import _wait_for_parts
from test_job import job as job_of_files
from test_job import write_input
from test_kill import finished, kill_driver, start

from runner import ConfigError, Incomplete, JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.sinks.delta import Delta
from runner.sinks.delta_actions import stored_schema
from runner.sources.delta import Delta as Source
from runner.storage.delta import log_options
from runner.testing import check_sink
from runner.types import Shard, Written


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    return {**job_of_files(tmp_path, loader), "mode": "inline", "sink": "delta", **more}


def typed(config: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]


def twice(tmp_path: Path, number: int | None = None) -> list[int]:
    return sorted(row["twice"] for row in delta_log.rows(tmp_path / "out", number))


def doubled(count: int, factor: int = 2) -> list[int]:
    return [factor * x for x in range(count)]


def newest(tmp_path: Path) -> int:
    return delta_log.version(tmp_path / "out").number


def forget(tmp_path: Path, *names: str) -> None:
    for name in ("_SUCCESS", *names):
        for path in (tmp_path / "out").rglob(name):
            path.unlink()


def compact(tmp_path: Path) -> None:
    """As somebody who looks after the table does, who keeps nothing of older versions."""
    DeltaTable(tmp_path / "out").optimize.compact()
    DeltaTable(tmp_path / "out").vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)


# ---------------------------------------------------------------- the promises themselves


@pytest.mark.parametrize("keys", [[], ["flag", "text"]], ids=["whole", "partitioned"])
def test_the_promises_are_kept(tmp_path: Path, keys: list[str]) -> None:
    check_sink(lambda: Delta(str(tmp_path), partition_by=keys))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [[], ["flag", "text"]], ids=["whole", "partitioned"])
def test_the_promises_are_kept_on_s3(s3: S3Server, keys: list[str]) -> None:
    path = f"s3://{s3.bucket}/{uuid4().hex}"
    check_sink(lambda: Delta(path, partition_by=keys, storage_options=s3.storage_options))


# ---------------------------------------------------------------- the main path


def test_nightly_runs_append_and_a_new_model_replaces_them_in_one_commit(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = {**job_of_files(tmp_path), "sink": "delta", "sink.keep_columns": ["id"]}
    executor(config)
    first = newest(tmp_path)
    assert twice(tmp_path) == doubled(100)
    write_input(tmp_path / "in", files=2, first=4)
    report = executor({**config, "sink.save_mode": "append"})
    assert report.committed == 2
    assert newest(tmp_path) == first + 1
    assert twice(tmp_path) == doubled(150)
    assert twice(tmp_path, first) == doubled(100)
    again = {**config, "sink.save_mode": "overwrite", "model.factor": 3}
    executor(again)
    assert newest(tmp_path) == first + 2
    assert twice(tmp_path) == doubled(150, 3)
    assert twice(tmp_path, first + 1) == doubled(150)
    assert {row["id"] for row in delta_log.rows(tmp_path / "out")} == {f"row {x}" for x in range(150)}
    assert (tmp_path / "out/_SUCCESS").exists()
    assert main([*typed({**again, "mode": "inline"}), "action=verify"]) == 0
    executor(again)  # the same predictions once more: other files, so that older versions stay what they were
    assert twice(tmp_path, first + 2) == twice(tmp_path) == doubled(150, 3)


def test_parts_have_the_same_bytes_and_names_in_every_mode(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor({**job_of_files(tmp_path), "sink": "delta"})
    run(job(tmp_path, **{"sink.path": str(tmp_path / "calm")}))
    out, calm = ({p.name: p.read_bytes() for p in (tmp_path / f).glob("predictions/*")} for f in ("out", "calm"))
    assert out == calm
    assert len(out) == 4


def test_readers_see_nothing_before_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "in")
    seen = []
    write = Delta.write

    def looking(self: Delta, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        seen.append(len(delta_log.rows(tmp_path / "out")))
        return write(self, shard, schema, tables)

    monkeypatch.setattr(Delta, "write", looking)
    run(job(tmp_path))
    assert seen == [0] * 4
    assert len(delta_log.rows(tmp_path / "out")) == 100


@pytest.mark.slow
def test_sigkill_of_the_driver_loses_and_doubles_nothing(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, "processes", "sink=delta", "mode.num_workers=2")
    _wait_for_parts(tmp_path, 3, running)
    kill_driver(running)
    assert delta_log.rows(tmp_path / "out") == []
    finished(start(tmp_path, "processes", "sink=delta", "mode.num_workers=2"))
    assert twice(tmp_path) == doubled(300)


@pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after it"])
@pytest.mark.parametrize("save_mode", ["resume", "overwrite"])
def test_a_run_that_dies_at_its_commit_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_mode: str, after: bool
) -> None:
    write_input(tmp_path / "in")
    config = job(tmp_path, **{"sink.save_mode": save_mode, "model.factor": 3})
    if save_mode == "overwrite":
        run(job(tmp_path))
    before, commit = newest(tmp_path) if save_mode == "overwrite" else 0, Delta._commit

    def dying(self: Delta, *args: Any, **more: Any) -> None:
        if after:
            commit(self, *args, **more)
        raise ConnectionError("the machine is gone")

    with monkeypatch.context() as faults:
        faults.setattr(Delta, "_commit", dying)
        with pytest.raises(Incomplete, match="the machine is gone"):
            run(config)
    old = doubled(100) if save_mode == "overwrite" else []
    assert twice(tmp_path) == (doubled(100, 3) if after else old)
    assert run(config).committed == 0
    assert twice(tmp_path) == doubled(100, 3)
    assert newest(tmp_path) == before + 1
    assert (tmp_path / "out/_SUCCESS").exists()


def test_a_run_that_dies_while_it_replaces_leaves_the_old_rows_until_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path))
    config = job(tmp_path, **{"sink.save_mode": "overwrite", "model.factor": 3})
    for method in ("remove", "prepare"):  # while the old records are deleted, and before the first part
        with monkeypatch.context() as faults:
            faults.setattr(Delta, method, _gone)
            with pytest.raises(Incomplete):
                run(config)
        assert twice(tmp_path) == doubled(100)
    run(config)
    assert twice(tmp_path) == doubled(100, 3)


def _gone(self: Delta, *args: Any) -> None:  # noqa: ARG001
    raise ConnectionError("the machine is gone")


def test_of_two_publishers_one_commits(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path))
    shards = [Shard(7, f"{number:016x}", "", ()) for number in range(3)]
    table = pa.table({"twice": [1, 2, 3]})
    sinks = [Delta(str(tmp_path / "out")) for _ in range(4)]
    told = [(shard, sinks[0].write(shard, table.schema, iter([table]))) for shard in shards]
    before = newest(tmp_path)
    together = threading.Barrier(4)

    def publish(sink: Delta) -> None:
        together.wait()
        sink.publish(1, iter(told))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(publish, sinks))
    assert newest(tmp_path) == before + 1
    assert twice(tmp_path) == sorted([*doubled(100), *[1, 2, 3] * 3])


# ---------------------------------------------------------------- what others do to the table


def test_compaction_and_vacuum_harm_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path))
    compact(tmp_path)
    assert not list((tmp_path / "out").glob("predictions/*"))
    assert run(job(tmp_path)).committed == 0
    forget(tmp_path, "receipts-*.jsonl")
    write_input(tmp_path / "in", files=1, first=4)
    assert run(job(tmp_path, **{"sink.save_mode": "append"})).committed == 1
    assert len(DeltaTable(tmp_path / "out").to_pyarrow_table()) == 125
    capsys.readouterr()
    assert main([*typed(job(tmp_path)), "action=verify"]) == 0
    out = capsys.readouterr().out
    assert "125 rows in, 125 predicted" in out
    assert "4 parts rewritten by others since published" in out
    compact(tmp_path)
    run(job(tmp_path, **{"sink.save_mode": "overwrite", "model.factor": 3}))
    assert sorted(DeltaTable(tmp_path / "out").to_pyarrow_table()["twice"].to_pylist()) == doubled(125, 3)


def test_a_run_killed_before_its_commit_survives_a_vacuum_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")
    with monkeypatch.context() as faults:
        faults.setattr(Delta, "publish", _gone)
        with pytest.raises(Incomplete):
            run(job(tmp_path))
    DeltaTable(tmp_path / "out").vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    assert run(job(tmp_path)).committed == 4
    assert twice(tmp_path) == doubled(100)


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A table of somebody else with rows in it."""
    write_input(tmp_path / "in")
    write_deltalake(tmp_path / "out", pa.table({"twice": [-1, -2]}))
    return tmp_path


@pytest.mark.parametrize("save_mode", ["resume", "overwrite", "error"])
def test_rows_of_others_are_not_touched(others: Path, save_mode: str) -> None:
    with pytest.raises(SinkRefused, match=r"1 file that this job did not write; sink\.save_mode=append adds"):
        run(job(others, **{"sink.save_mode": save_mode}))
    assert twice(others) == [-2, -1]


def test_rows_are_added_beside_those_of_others_and_replaced_alone(others: Path) -> None:
    run(job(others, **{"sink.save_mode": "append"}))
    assert twice(others) == [-2, -1, *doubled(100)]
    assert run(job(others)).committed == 0
    write_deltalake(others / "out", pa.table({"twice": [-3]}), mode="append")
    replaced = job(others, **{"sink.save_mode": "overwrite", "model.factor": 3})
    run(replaced)
    assert twice(others) == [-3, -2, -1, *doubled(100, 3)]
    DeltaTable(others / "out").optimize.compact()
    assert run(job(others, **{"model.factor": 3})).committed == 0
    with pytest.raises(SinkRefused, match="rewritten rows of this job together with their own"):
        run(job(others, **{"sink.save_mode": "overwrite"}))


def test_rows_that_come_between_the_look_at_a_table_and_the_commit_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is not repeated beside them by itself, which would mark the table as this program's alone."""
    write_input(tmp_path / "in")
    real, raced = deltalake.CommitProperties, list[bool]()

    def racing(*arguments: Any, **more: Any) -> Any:
        if more.get("app_transactions") and not raced:
            raced.append(True)
            write_deltalake(tmp_path / "out", pa.table({"twice": [-1]}), mode="append")
        return real(*arguments, **more)

    monkeypatch.setattr(deltalake, "CommitProperties", racing)
    run(job(tmp_path))
    assert twice(tmp_path) == [-1, *doubled(100)]
    run(job(tmp_path, **{"sink.save_mode": "overwrite", "model.factor": 3}))
    assert twice(tmp_path) == [-1, *doubled(100, 3)]


def test_rows_beside_others_are_replaced_in_partitions_of_every_type(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    there = pa.table({"twice": [-1], "x": pa.array([5], pa.int64())})
    write_deltalake(tmp_path / "out", there, partition_by=["x"])
    config = job(tmp_path, **{"sink.keep_columns": ["x"], "sink.partition_by": ["x"]})
    run({**config, "sink.save_mode": "append"})
    run({**config, "sink.save_mode": "overwrite", "model.factor": 3})
    assert twice(tmp_path) == [-1, *doubled(100, 3)]


def test_a_partitioned_part_that_somebody_deletes_before_the_commit_is_predicted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path / "in")
    config = job(tmp_path, **{"sink.keep_columns": ["x"], "sink.partition_by": ["x"]})
    with monkeypatch.context() as patched:
        patched.setattr(Delta, "publish", _gone)
        with pytest.raises(Incomplete):
            run(config)
    shutil.rmtree(tmp_path / "out/predictions")
    with pytest.raises(Incomplete, match="were deleted by somebody else"):
        run(config)
    for _ in range(5):  # each run finds some of them gone
        with contextlib.suppress(Incomplete):
            run(config)
    assert twice(tmp_path) == doubled(100)


def test_what_is_left_without_records_is_told(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path))
    for path in sorted((tmp_path / "out/_runner").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(SinkRefused, match="whose records are gone"):
        run(job(tmp_path))
    run(job(tmp_path, **{"sink.save_mode": "overwrite"}))
    assert twice(tmp_path) == doubled(100)


def test_a_table_that_was_made_before_is_filled_if_its_columns_fit(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    fields = pa.schema([("twice", pa.int64()), ("id", pa.string()), ("note", pa.string())])
    DeltaTable.create(tmp_path / "out", fields)
    run(job(tmp_path, **{"sink.keep_columns": ["id"]}))
    run(job(tmp_path, **{"sink.keep_columns": ["id"], "sink.save_mode": "overwrite", "model.factor": 3}))
    assert twice(tmp_path) == doubled(100, 3)
    assert len(DeltaTable(tmp_path / "out").schema().fields) == 3
    with pytest.raises(ConfigError, match="the table has no column 'x'"):
        run(job(tmp_path, **{"sink.keep_columns": ["x"], "predict.columns": ["x"], "sink.save_mode": "overwrite"}))


def test_other_columns_replace_those_of_a_table_that_a_run_has_created(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, **{"sink.keep_columns": ["id"]}))
    run(job(tmp_path, **{"sink.save_mode": "overwrite", "sink.keep_columns": ["x"], "predict.columns": ["x"]}))
    run(job(tmp_path, **{"sink.save_mode": "overwrite"}))
    assert [field.name for field in DeltaTable(tmp_path / "out").schema().fields] == ["twice"]
    assert twice(tmp_path) == doubled(100)


@pytest.mark.parametrize(
    ("fields", "more", "told"),
    [
        ([("twice", pa.string())], {}, "column 'twice' is string in the table, and int64 in the output"),
        ([("thrice", pa.int64())], {}, "the table has no column 'twice', only thrice"),
        ([("twice", pa.int64()), ("x", pa.int64())], {"partition_by": ["x"]}, r"partitioned by \['x'\], and sink.partition_by=\[\]"),
        ([pa.field("twice", pa.int64(), nullable=False)], {}, "column twice is NOT NULL"),
        ([("twice", pa.int64())], {"configuration": {"delta.columnMapping.mode": "name"}}, "column mapping"),
        ([("twice", pa.int64())], {"configuration": {"delta.setTransactionRetentionDuration": "interval 1 days"}}, "forgets"),
    ],
    ids=["type", "name", "partitions", "not null", "mapping", "expiry"],
)  # fmt: skip
def test_a_table_that_does_not_fit_is_refused_before_a_part_is_written(
    tmp_path: Path, fields: list[Any], more: dict[str, Any], told: str
) -> None:
    write_input(tmp_path / "in")
    DeltaTable.create(tmp_path / "out", pa.schema(fields), **more)
    with pytest.raises(ConfigError, match=told):
        run(job(tmp_path))
    assert not (tmp_path / "out/predictions").exists()


def test_a_table_with_a_constraint_is_refused(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    table = DeltaTable.create(tmp_path / "out", pa.schema([("twice", pa.int64())]))
    table.alter.add_constraint({"positive": "twice >= 0"})
    with pytest.raises(ConfigError, match=r"checks its rows \(delta\.constraints\.positive\)"):
        run(job(tmp_path))


# ---------------------------------------------------------------- partitions


def test_a_partitioned_table(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        table = pq.read_table(path)
        days = pa.array([None if x % 5 == 4 else f"2026-01-0{x % 5 + 1}" for x in table["x"].to_pylist()])
        pq.write_table(table.append_column("day", days.cast(pa.date32())), path)
    config = {
        **job_of_files(tmp_path),
        "sink": "delta",
        "sink.partition_by": ["day"],
        "sink.keep_columns": ["day", "x"],
        "predict.columns": ["x"],
    }
    config["model._target_"] = "predictors.doubling"
    config["sink.keep_columns"] = ["day"]
    executor(config)
    found = delta_log.rows(tmp_path / "out")
    assert sorted(row["twice"] for row in found) == doubled(100)
    days_of = {4: None, **{i: f"2026-01-0{i + 1}" for i in range(4)}}
    assert all(row["day"] == days_of[row["twice"] // 2 % 5] for row in found)
    of_a_day = [
        each
        for each in delta_log.version(tmp_path / "out").files.values()
        if each["partitionValues"] == {"day": "2026-01-02"}
    ]
    assert len(of_a_day) == 4
    assert len(DeltaTable(tmp_path / "out").file_uris()) == 20
    assert main([*typed({**config, "mode": "inline"}), "action=verify"]) == 0
    compact(tmp_path)
    assert run({**config, "mode": "inline"}).committed == 0
    assert main([*typed({**config, "mode": "inline"}), "action=verify"]) == 0
    run({**config, "mode": "inline", "sink.save_mode": "overwrite", "model.factor": 3})
    assert sorted(row["twice"] for row in delta_log.rows(tmp_path / "out")) == doubled(100, 3)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["day"], "no column 'day' in the output, which has id, twice; sink.keep_columns keeps one"),
        (["twice", "id"], "at least one must be left"),
    ],
)
def test_partitions_that_cannot_be_are_refused(tmp_path: Path, keys: list[str], told: str) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(ConfigError, match=told):
        run(job(tmp_path, **{"sink.partition_by": keys, "sink.keep_columns": ["id"]}))


def test_an_empty_text_is_no_value_of_a_partition(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": [1, 2], "id": ["a", ""]}), tmp_path / "in/0.parquet")
    with pytest.raises(JobFailed, match="id has an empty text, which a Delta table takes for null"):
        run(job(tmp_path, **{"sink.partition_by": ["id"], "sink.keep_columns": ["id"]}))


# ---------------------------------------------------------------- types, statistics, quarantine, storage


def test_types_are_kept_without_loss_or_refused() -> None:
    kept = {pa.uint8(): pa.int16(), pa.uint32(): pa.int64(), pa.float16(): pa.float32(), pa.large_string(): pa.string(),
            pa.timestamp("ns"): pa.timestamp("us"), pa.timestamp("ms", "Europe/Berlin"): pa.timestamp("us", "UTC"),
            pa.list_(pa.float32(), 2): pa.list_(pa.float32()), pa.date64(): pa.date32()}  # fmt: skip
    for kind, stored in kept.items():
        assert stored_schema(pa.schema([("a", kind)])).field(0).type == stored
    for kind in (pa.uint64(), pa.time64("us"), pa.duration("s"), pa.null(), pa.struct([]), pa.list_(pa.uint64()),
                 pa.decimal256(50, 2)):  # fmt: skip
        with pytest.raises(ConfigError, match="a Delta table cannot hold a "):
            stored_schema(pa.schema([("a", kind)]))


def test_statistics_let_readers_skip_files(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(
        job(tmp_path, **{"sink.keep_columns": ["x"], "predict.columns": ["x"]})
        | {"model._target_": "predictors.doubling"}
    )
    told = [json.loads(file["stats"]) for file in delta_log.version(tmp_path / "out").files.values()]
    assert sorted((each["minValues"]["twice"], each["maxValues"]["twice"]) for each in told) == [
        (0, 48), (50, 98), (100, 148), (150, 198)
    ]  # fmt: skip
    assert all(each["nullCount"] == {"x": 0, "twice": 0} for each in told)


def test_bad_rows_go_to_quarantine(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = job(
        tmp_path, "poisoned", **{"model.values": [3, 40, 41], "errors": "quarantine", "errors.max_bad_rows": 100}
    )
    report = run(config)
    assert report.rows_quarantined == 3
    assert len(delta_log.rows(tmp_path / "out")) == 97
    assert main([*typed(config), "action=verify"]) == 0


@pytest.mark.slow
def test_a_table_on_s3(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "in")
    monkeypatch.setenv("LAKE_SECRET", s3.secret)
    path, options = f"s3://{s3.bucket}/{uuid4().hex}", s3.storage_options
    config = job(
        tmp_path, **{"sink.path": path, "sink.storage_options": {**options, "secret": "${oc.env:LAKE_SECRET}"}}
    )
    run(config)
    run({**config, "sink.save_mode": "overwrite", "model.factor": 3})
    table = DeltaTable(path, storage_options=log_options(path, options, ""))
    assert sorted(table.to_pyarrow_table()["twice"].to_pylist()) == doubled(100, 3)
    flat = {f"sink.storage_options.client_kwargs.{name}": value for name, value in options["client_kwargs"].items()}
    flat |= {
        "sink.storage_options.key": s3.key,
        "sink.storage_options.secret": "${oc.env:LAKE_SECRET}",
        "model.factor": 3,
    }
    del config["sink.storage_options"]
    assert main([*typed({**config, **flat}), "action=verify"]) == 0


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    for make in (Delta, Source):
        with pytest.raises(ConfigError, match=r"=delta needs deltalake: pip install .*\[delta\]"):
            make("out")


def test_storage_options_are_translated_or_refused() -> None:
    given = {"key": "k", "client_kwargs": {"endpoint_url": "http://h:1", "region_name": "r"}, "default_block_size": 5}
    told = log_options("s3://b/t", given, "sink.storage_options")
    assert {name: told[name] for name in told if name.startswith("aws")} == {
        "aws_access_key_id": "k", "aws_endpoint_url": "http://h:1", "aws_region": "r", "aws_allow_http": "true"
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"sink\.storage_options\.profile: has no counterpart"):
        Delta("s3://b/t", storage_options={"profile": "p"})
    with pytest.raises(ConfigError, match="cannot lie on hdfs://"):
        Delta("hdfs://h/t")


@pytest.mark.skipif(
    not delta_log.duckdb_is_there(), reason=f"{delta_log.DUCKDB} names no folder with DuckDB's extension"
)
def test_duckdbs_own_reader_sees_the_same(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, **{"sink.keep_columns": ["id"], "sink.partition_by": ["id"]}))
    assert delta_log.by_duckdb(
        f"SELECT count(*), sum(twice), count(DISTINCT id) FROM delta_scan('{tmp_path / 'out'}')"
    ) == [[100, sum(doubled(100)), 100]]
    run(job(tmp_path, **{"sink.keep_columns": ["id"], "sink.path": str(tmp_path / "flat")}))
    run(
        job(
            tmp_path,
            **{"sink.keep_columns": ["id"], "sink.path": str(tmp_path / "flat"), "sink.save_mode": "overwrite"},
        )
    )
    assert delta_log.by_duckdb(f"SELECT twice FROM delta_scan('{tmp_path / 'flat'}') WHERE twice > 190 ORDER BY 1") == [
        [192], [194], [196], [198]
    ]  # fmt: skip
