"""The sink `Iceberg` on real tables: what readers see and when, what a kill leaves, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lake
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode
from sources.test_iceberg import source
from test_job import job as job_of_files
from test_job import write_input
from test_kill import finished, kill_driver, start

from runner import ConfigError, Incomplete, SinkRefused, run
from runner.__main__ import main
from runner.sinks.iceberg import Iceberg
from runner.testing import check_sink

TABLE = "shop.scores"


def sink(folder: Path, **more: Any) -> Iceberg:
    return Iceberg(lake.properties(folder), TABLE, **more)


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    """The job that other tests have, into a table."""
    common = {name: value for name, value in job_of_files(tmp_path, loader).items() if name != "sink.path"}
    into = {"sink": "iceberg", "sink.catalog": lake.properties(tmp_path), "sink.table": TABLE}
    return {**common, **into, **more}


def inline(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> Any:
    return run(job(tmp_path, loader, mode="inline", **more))


def typed(config: dict[str, Any]) -> list[str]:
    flat = {key: value for key, value in config.items() if key != "sink.catalog"}
    flat |= {f"sink.catalog.{name}": value for name, value in config["sink.catalog"].items()}
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]


def seen(folder: Path, column: str = "twice") -> list[Any]:
    """What readers of the table see."""
    with lake.table(folder, TABLE) as table:
        return sorted(table.scan().to_arrow().column(column).to_pylist())


def by_hand(folder: Path, column: str = "twice") -> list[Any]:
    """The same by plain pyarrow, over the files that the newest snapshot names."""
    with lake.table(folder, TABLE) as table:
        paths = [task.file.file_path for task in table.scan().plan_files()]
    return sorted(ds.dataset(paths, format="parquet").to_table([column]).column(column).to_pylist())


def snapshots(folder: Path) -> list[tuple[str, int]]:
    """Operation and rows of each snapshot, in order."""
    with lake.table(folder, TABLE) as table:
        told = [each.summary for each in table.snapshots()]
    return [(each.operation.value, int(each.additional_properties["total-records"])) for each in told]


def doubled(*rows: Iterable[int]) -> list[int]:
    return sorted(2 * x for each in rows for x in each)


# ---------------------------------------------------------------- the promises themselves


@pytest.mark.parametrize("more", [{}, {"partition_by": ["flag"]}, {"path": "elsewhere"}], ids=["plain", "keys", "path"])
def test_promises(tmp_path: Path, more: dict[str, Any]) -> None:
    tmp_path.joinpath("warehouse").mkdir()
    check_sink(lambda: sink(tmp_path, **more))


@in_every_mode
def test_a_job_fills_a_table_that_others_read(executor: Runs, tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 30), lake.rows(30, 20))
    bad = [5, 41]
    given = {
        **{name: value for name, value in job(tmp_path, "poisoned").items() if not name.startswith("source")},
        "source": "iceberg",
        "source.catalog": lake.properties(tmp_path),
        "source.table": lake.TABLE,
        "errors": "quarantine",
        "errors.max_bad_rows": 2,
        "model.values": bad,
        "sink.keep_columns": ["name"],
    }
    report = executor(given)
    assert (report.rows_out, report.rows_quarantined) == (48, 2)
    good = [x for x in range(50) if x not in bad]
    assert seen(tmp_path) == by_hand(tmp_path) == doubled(good)
    assert seen(tmp_path, "name") == sorted(f"row {x}" for x in good)
    assert snapshots(tmp_path) == [("append", 48)], "one commit"
    assert executor(given).committed == 0
    assert snapshots(tmp_path) == [("append", 48)]
    verified = {key: value for key, value in given.items() if not key.startswith("source.catalog")}
    catalog = [f"source.catalog.{name}={value}" for name, value in lake.properties(tmp_path).items()]
    assert main(["action=verify", *typed(verified), *catalog]) == 0


def test_files_have_the_ids_of_the_tables_fields(tmp_path: Path) -> None:
    """So columns may be renamed in the table."""
    write_input(tmp_path / "in")
    inline(tmp_path, **{"sink.keep_columns": ["id"]})
    with lake.table(tmp_path, TABLE) as table, table.update_schema() as update:
        update.rename_column("id", "label")
    with lake.table(tmp_path, TABLE) as table, table.update_schema() as update:
        update.add_column("id", table.schema().find_type("label"))
    with lake.table(tmp_path, TABLE) as table:
        rows = table.scan().to_arrow()
    assert sorted(rows.column("label").to_pylist()) == sorted(f"row {x}" for x in range(100))
    assert rows.column("id").null_count == 100


# ---------------------------------------------------------------- kills, answers that are lost, and others who are faster


@pytest.mark.slow
def test_sigkill_of_the_driver_shows_readers_nothing_and_loses_nothing(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    given = [each for each in typed(job(tmp_path)) if each.startswith("sink")]
    folder = tmp_path / "warehouse/shop/scores/predictions"
    for committed in (2, 5):
        running = start(tmp_path, "processes", *given, "~sink.path")
        while len(list(folder.glob("part-*"))) < committed:
            assert running.poll() is None, running.communicate()
        kill_driver(running)
        assert seen(tmp_path) == []
    finished(start(tmp_path, "processes", *given, "~sink.path"))
    assert seen(tmp_path) == by_hand(tmp_path) == doubled(range(200))
    assert snapshots(tmp_path) == [("append", 200)]


@pytest.mark.parametrize("landed", [True, False], ids=["landed", "lost"])
@pytest.mark.usefixtures("short_waits")
def test_a_commit_that_is_not_answered(tmp_path: Path, landed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks while the table commits: it may have been done or not."""
    from pyiceberg.table import StagedTable, Table

    commit = Table._do_commit

    def breaking(table: Any, *arguments: Any, **more: Any) -> None:
        created = isinstance(table, StagedTable)
        if landed or created:
            commit(table, *arguments, **more)
        if not created:
            raise ConnectionResetError("the server went away")

    write_input(tmp_path / "in")
    with monkeypatch.context() as broken:
        broken.setattr(Table, "_do_commit", breaking)
        with pytest.raises(Incomplete):
            inline(tmp_path)
    assert seen(tmp_path) == (doubled(range(100)) if landed else [])
    assert inline(tmp_path).committed == 0
    assert (seen(tmp_path), len(snapshots(tmp_path))) == (doubled(range(100)), 1)


def test_publishers_at_the_same_moment_and_a_writer_beside_them(tmp_path: Path) -> None:
    """Each plan is in the table once, and so is what the other writer appended."""
    from runner.ledger.ledger import Ledger
    from runner.types import Written

    write_input(tmp_path / "in")
    inline(tmp_path, **{"sink.save_mode": "append"})
    write_input(tmp_path / "in", files=3, first=4)
    inline_without_publishing(tmp_path, **{"sink.save_mode": "append"})
    shards = Ledger(sink(tmp_path), "test").plans[1]
    told = [(shard, sink(tmp_path).examine(shard) or Written(0, "")) for shard in shards]

    def others(_: int) -> None:
        with lake.table(tmp_path, TABLE) as table:
            table.append(pa.table({"twice": pa.array([-1], pa.int64())}))

    with ThreadPoolExecutor(4) as threads:
        published = [threads.submit(sink(tmp_path).publish, 1, iter(told)) for _ in range(3)]
        written = threads.submit(others, 0)
    assert not [each.exception() for each in [*published, written] if each.exception()]
    assert seen(tmp_path) == [-1, *doubled(range(175))]


def inline_without_publishing(tmp_path: Path, **more: Any) -> None:
    """The run ends right before its commit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Iceberg, "publish", _interrupted)
        with pytest.raises(Incomplete):
            inline(tmp_path, **more)


def _interrupted(*_: Any) -> None:
    raise ConnectionError("nothing is published")


# ---------------------------------------------------------------- append, overwrite


def test_append_adds_a_snapshot_and_overwrite_replaces_in_one(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    inline(tmp_path)
    write_input(tmp_path / "in", files=1, first=2)
    inline(tmp_path, **{"sink.save_mode": "append"})
    assert snapshots(tmp_path) == [("append", 50), ("append", 75)]
    inline(tmp_path, **{"sink.save_mode": "overwrite", "model.factor": 3})
    assert snapshots(tmp_path)[2:] == [("overwrite", 75)], (
        "readers see the old rows or the new ones, and nothing between"
    )
    assert seen(tmp_path) == [3 * x for x in range(75)]
    with lake.table(tmp_path, TABLE) as table:
        older = table.scan(snapshot_id=table.snapshots()[1].snapshot_id).to_arrow()
        assert len([name for name in table.properties if "last-shard" in name]) == 1
    assert sorted(older.column("twice").to_pylist()) == doubled(range(75)), "files of an older snapshot are still there"
    assert main(["action=verify", *typed(job(tmp_path, **{"model.factor": 3}))]) == 0


def test_an_overwrite_may_have_other_columns(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    inline(tmp_path)
    inline(tmp_path, **{"sink.save_mode": "overwrite", "sink.keep_columns": ["id"]})
    assert seen(tmp_path, "id") == sorted(f"row {x}" for x in range(50))
    with pytest.raises(ConfigError, match=r"the table has no column 'x', only twice, id; add it to the table"):
        inline(tmp_path, **{"sink.save_mode": "append", "sink.keep_columns": ["x"], "sink.path": str(tmp_path / "out")})


def test_an_overwrite_that_is_killed_before_its_commit_leaves_the_old_rows(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    inline(tmp_path)
    more = {"sink.save_mode": "overwrite", "model.factor": 3}
    inline_without_publishing(tmp_path, **more)
    assert seen(tmp_path) == doubled(range(50))
    inline(tmp_path, **more)
    assert seen(tmp_path) == [3 * x for x in range(50)]


def test_rows_of_others_stay(tmp_path: Path) -> None:
    theirs = pa.table({"twice": pa.array([-1, -2], pa.int64()), "note": pa.array(["a", "b"], pa.string())})
    lake.create(tmp_path, theirs, name=TABLE)
    write_input(tmp_path / "in", files=2)
    for save_mode in ("resume", "overwrite"):
        with pytest.raises(
            SinkRefused, match=r"sink\.table=shop\.scores: .* 1 file that this job did not write; .*append adds"
        ):
            inline(tmp_path, **{"sink.save_mode": save_mode})
    inline(tmp_path, **{"sink.save_mode": "append"})
    assert seen(tmp_path) == [-2, -1, *doubled(range(50))]
    lake.append(tmp_path, theirs, name=TABLE)
    assert inline(tmp_path).committed == 0
    with pytest.raises(SinkRefused, match="did not write"):
        inline(tmp_path, **{"sink.save_mode": "overwrite", "sink.table": "shop.others", "sink.path": _others(tmp_path)})


def _others(tmp_path: Path) -> str:
    lake.create(tmp_path, pa.table({"twice": [1]}), name="shop.others")
    return str(tmp_path / "out")


def test_what_others_do_to_keep_a_table_tidy_harms_nothing(tmp_path: Path) -> None:
    """It is compacted, and its older snapshots expire, so that our files are gone."""
    write_input(tmp_path / "in", files=3)
    inline(tmp_path)
    lake.replace_files(tmp_path, TABLE)
    expire(tmp_path)
    for file in (tmp_path / "warehouse/shop/scores/predictions").iterdir():
        file.unlink()
    (tmp_path / "warehouse/shop/scores/_SUCCESS").unlink()
    for receipts in (tmp_path / "warehouse/shop/scores/_runner/runs").rglob("receipts-*"):
        receipts.unlink()
    assert inline(tmp_path).committed == 0
    assert seen(tmp_path) == doubled(range(75))
    write_input(tmp_path / "in", files=1, first=3)
    inline(tmp_path, **{"sink.save_mode": "append"})
    assert seen(tmp_path) == doubled(range(100))
    assert main(["action=verify", *typed(job(tmp_path))]) == 0
    inline(tmp_path, **{"sink.save_mode": "overwrite", "model.factor": 3})
    assert seen(tmp_path) == [3 * x for x in range(100)]


def expire(folder: Path) -> None:
    with lake.table(folder, TABLE) as table:
        now = table.current_snapshot().snapshot_id
        older = [each.snapshot_id for each in table.snapshots() if each.snapshot_id != now]
        table.maintenance.expire_snapshots().by_ids(older).commit()


# ---------------------------------------------------------------- partitions, types, refusals


def test_files_are_divided_by_the_values_of_columns(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    rows = pa.table({"x": range(30), "city": [("Rome", "Oslo", None)[i % 3] for i in range(30)]})
    pq.write_table(rows, tmp_path / "in/a.parquet")
    more = {"sink.partition_by": ["city"], "sink.keep_columns": ["city"]}
    inline(tmp_path, **more)
    with lake.table(tmp_path, TABLE) as table:
        for filter_, numbers in [("city = 'Rome'", range(0, 30, 3)), ("city is null", range(2, 30, 3))]:
            scan = table.scan(row_filter=filter_)
            assert len(list(scan.plan_files())) == 1
            assert sorted(scan.to_arrow().column("twice").to_pylist()) == doubled(numbers)
    with pytest.raises(ConfigError, match=r"the table is partitioned by \['city'\], and sink\.partition_by=\[\]"):
        inline(tmp_path, **{**more, "sink.partition_by": [], "sink.save_mode": "overwrite"})
    with pytest.raises(ConfigError, match=r"there is no column 'town' in the output, which has city, twice"):
        inline(tmp_path, **{**more, "sink.partition_by": ["town"], "sink.table": "shop.towns"})


def test_values_are_kept_in_the_types_that_iceberg_has(tmp_path: Path) -> None:
    def model(batch: Any) -> Any:
        when = pd.Timestamp("2026-11-21 10:00:00.123456")
        return pa.table(
            {
                "vector": pa.array([[x, x + 0.5] for x in batch["x"]], pa.list_(pa.float32(), 2)),
                "small": pa.array(np.asarray(batch["x"]), pa.uint8()),
                "when": pa.array([when] * len(batch), pa.timestamp("ns", "Europe/Rome")),
                "kind": pa.array(["a"] * len(batch)).dictionary_encode(),
                "parts": pa.array([{"a": [1]}] * len(batch)),
            }
        )

    write_input(tmp_path / "in", files=1)
    given = {name: value for name, value in job(tmp_path, mode="inline").items() if not name.startswith("model")}
    run(given, model=model)
    with lake.table(tmp_path, TABLE) as table:
        kinds = {field.name: str(field.field_type) for field in table.schema().fields}
        [row] = table.scan(row_filter="small = 3").to_arrow().to_pylist()
    assert kinds == {
        "vector": "list<float>", "small": "int", "when": "timestamptz", "kind": "string", "parts": "struct<7: a: optional list<long>>"
    }  # fmt: skip
    assert (row["vector"], row["kind"], row["parts"]) == ([3.0, 3.5], "a", {"a": [1]})
    assert row["when"].isoformat() == "2026-11-21T10:00:00.123456+00:00"


def tables() -> Iterator[Any]:
    number = pa.array([], pa.int64())
    yield pa.table({"other": number}), r"the table has no column 'twice', only other; add it to the table"
    yield (
        pa.table({"twice": number.cast(pa.string())}),
        r"column 'twice' is string in the table, and int64 in the output",
    )
    required = pa.schema([pa.field("twice", pa.int64(), nullable=False)])
    yield pa.table([number], schema=required), r"column 'twice' is required, which this program does not check"


@pytest.mark.parametrize(("there", "said"), [*tables()], ids=["absent", "type", "required"])
def test_a_table_that_cannot_hold_the_output_is_refused_before_a_part_is_written(
    tmp_path: Path, there: pa.Table, said: str
) -> None:
    lake.create(tmp_path, there, name=TABLE)
    write_input(tmp_path / "in", files=1)
    with pytest.raises(ConfigError, match=said):
        inline(tmp_path, **{"sink.save_mode": "append"})
    assert not (tmp_path / "warehouse/shop/scores/predictions").exists()


def test_a_hidden_partition_is_refused(tmp_path: Path) -> None:
    from pyiceberg.transforms import BucketTransform

    lake.create(tmp_path, pa.table({"twice": pa.array([], pa.int64())}), name=TABLE)
    with lake.table(tmp_path, TABLE) as table, table.update_spec() as update:
        update.add_field("twice", BucketTransform(4), "some")
    write_input(tmp_path / "in", files=1)
    with pytest.raises(
        ConfigError, match=r"the table is partitioned by bucket\[4\] of twice; only columns as they are"
    ):
        inline(tmp_path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sink.table": "scores"}, r"sink\.table=scores: expected a namespace and a name"),
        ({"sink.catalog": {"type": "odd"}}, r"sink\.catalog: cannot be used: 'odd' is not a valid CatalogType"),
        (
            {"sink.catalog": {"type": "sql", "uri": "sqlite:///catalog.db"}},
            r"sink\.path: the table shop\.scores is not there yet.*give a folder or URI",
        ),
    ],
    ids=["name", "catalog", "place"],
)
def test_what_is_wrong_is_said(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(ConfigError, match=said):
        inline(tmp_path, **more)


@pytest.mark.usefixtures("short_waits")
def test_a_catalog_that_does_not_answer_may_answer_later(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(Incomplete, match=r"sink\.catalog: does not answer"):
        inline(tmp_path, **{"sink.catalog": {"type": "rest", "uri": "http://127.0.0.1:9"}})


def test_what_a_sink_wrote_is_a_source(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    inline(tmp_path, **{"sink.keep_columns": ["x"]})
    assert sorted(row["x"] for row in _rows(tmp_path)) == [*range(50)]


def _rows(tmp_path: Path) -> list[dict[str, Any]]:
    from sources.test_iceberg import rows_of

    return rows_of(source(tmp_path, table=TABLE))
