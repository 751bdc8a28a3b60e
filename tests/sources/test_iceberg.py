"""The source `Iceberg` on real tables: what it reads, what it keeps of a plan, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode
from test_job import digests, predicted

from runner import ConfigError, Incomplete, JobFailed, SinkRefused, run
from runner.__main__ import main
from runner.sources.iceberg import Iceberg
from runner.testing import check_source
from runner.types import Reader


def source(folder: Path, **more: Any) -> Iceberg:
    return Iceberg(lake.properties(folder), **{"table": lake.TABLE, **more})


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    return {
        "source": "iceberg",
        "source.catalog": lake.properties(tmp_path),
        "source.table": lake.TABLE,
        "model": "custom",
        "model._target_": f"predictors.{loader}",
        "predict.columns": ["x"],
        "shard_bytes": None,
        "sink.path": str(tmp_path / "out"),
        **more,
    }


def inline(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> Any:
    return run(job(tmp_path, loader, mode="inline", **more))


def rows_of(source: Iceberg) -> list[dict[str, Any]]:
    inputs = source.inputs()
    fragments, schema = source.inspect(inputs)
    assert schema is not None
    reader: Reader = source.reader(schema)
    tables = (table for fragment in fragments for table in reader.read(fragment))
    return [row for table in tables if isinstance(table, pa.Table) for row in table.to_pylist()]


def numbers(source: Iceberg) -> list[int]:
    return sorted(row["x"] for row in rows_of(source))


def twice(*ranges: range) -> list[int]:
    return sorted(2 * x for each in ranges for x in each)


# ---------------------------------------------------------------- what is read


def test_promises(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 40), lake.rows(40, 25), properties={"write.parquet.row-group-limit": "10"})
    assert len(source(tmp_path).inspect(source(tmp_path).inputs())[0]) == 7, "row groups are fragments"
    for more in ({}, {"filters": [["x", ">", 50]]}, {"columns": ["name"]}):
        check_source(source(tmp_path, **more))
    paths = [file.name for file in source(tmp_path).inputs()]
    lake.delete_rows(tmp_path, {paths[0]: [0, 9, 10], paths[1]: [3]})
    lake.delete_rows(tmp_path, {paths[0]: [1]})
    lake.append(tmp_path, lake.rows(100, 3))
    check_source(source(tmp_path))
    check_source(source(tmp_path, filters=[["name", "!=", "row 50"]], columns=["name"]))


def test_rows_that_delete_files_name_are_not_read(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 20), lake.rows(20, 10))
    before = {file.name: file for file in source(tmp_path).inputs()}
    [first, second] = sorted(before, key=lambda path: pq.read_table(path).column("x")[0].as_py())
    lake.delete_rows(tmp_path, {first: [0, 19], second: [5]})
    assert numbers(source(tmp_path)) == [x for x in range(30) if x not in {0, 19, 25}]
    snapshot = source(tmp_path)._table.history()[1].snapshot_id
    assert numbers(source(tmp_path, snapshot_id=snapshot)) == [*range(30)], "an older snapshot has them"


def test_columns_are_found_by_field_id(tmp_path: Path) -> None:
    """A column was renamed, one was added, one has a larger type, one was dropped, and another has its name."""
    from pyiceberg.types import IntegerType, LongType, StringType

    first = pa.table(
        {
            "x": pa.array([1, 2], pa.int32()),
            "name": ["a", "b"],
            "gone": [0.5, 1.5],
            "place": [{"lat": 1.0, "city": "P"}, {"lat": None, "city": "R"}],
        }
    )
    lake.create(tmp_path, first)
    with lake.table(tmp_path) as table, table.update_schema() as update:
        update.rename_column("name", "title")
        update.update_column("x", LongType())
        update.delete_column("gone")
        update.rename_column("place.city", "town")
        update.add_column("rank", IntegerType())
    with lake.table(tmp_path) as table, table.update_schema() as update:
        update.add_column("gone", StringType())
    there = source(tmp_path)
    assert rows_of(there) == [
        {"x": 1, "title": "a", "place": {"lat": 1.0, "town": "P"}, "rank": None, "gone": None},
        {"x": 2, "title": "b", "place": {"lat": None, "town": "R"}, "rank": None, "gone": None},
    ]
    check_source(source(tmp_path))
    check_source(source(tmp_path, columns=["gone"]))
    assert numbers(source(tmp_path, filters=[["title", "=", "b"]])) == [2]
    snapshot = there._table.current_snapshot().snapshot_id
    assert list(rows_of(source(tmp_path, snapshot_id=snapshot))[0]) == ["x", "name", "gone", "place"], (
        "a snapshot has the schema that it was written with"
    )


def test_partitions_and_statistics_leave_out_files(tmp_path: Path) -> None:
    from pyiceberg.transforms import IdentityTransform

    lake.create(tmp_path, pa.table({"x": pa.array([], pa.int64()), "day": pa.array([], pa.date32())}))
    with lake.table(tmp_path) as table, table.update_spec() as update:
        update.add_field("day", IdentityTransform(), "day")
    days = pa.array(["2026-11-20", "2026-11-21", "2026-11-21"]).cast(pa.date32())
    lake.append(tmp_path, pa.table({"x": [1, 2, 3], "day": days}), pa.table({"x": [9], "day": days[1:2]}))
    check_source(source(tmp_path))
    for filters, files, rows in [
        ([["day", "=", "2026-11-20"]], 1, [1]),
        ([["day", ">", "2026-11-20"], ["x", "<", 9]], 1, [2, 3]),
        ([["day", "not in", ["2026-11-20"]]], 2, [2, 3, 9]),
        ([[["x", "=", 9]], [["x", "<", 1.5]]], 3, [1, 9]),  # a fraction cannot be held against whole numbers
        ([["x", "in", [2, 9]]], 2, [2, 9]),
    ]:
        there = source(tmp_path, filters=filters)
        assert (len(there.inputs()), numbers(there)) == (files, rows), filters


def test_a_file_without_its_partition_column_has_the_partitions_value(tmp_path: Path) -> None:
    """As tables have them that were made of Hive's."""
    from pyiceberg.manifest import DataFile, FileFormat
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.typedef import Record

    lake.create(tmp_path, pa.table({"x": pa.array([], pa.int64()), "city": pa.array([], pa.string())}))
    with lake.table(tmp_path) as table, table.update_spec() as update:
        update.add_field("city", IdentityTransform(), "city")
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "old.parquet")
    with lake.table(tmp_path) as table:
        names = {"schema.name-mapping.default": table.schema().name_mapping.model_dump_json()}
        with table.transaction() as transaction:
            transaction.set_properties(names)
            with transaction.update_snapshot().fast_append() as update:
                update.append_data_file(
                    DataFile.from_args(
                        file_path=str(tmp_path / "old.parquet"),
                        file_format=FileFormat.PARQUET,
                        partition=Record("Rome"),
                        spec_id=1,
                        record_count=2,
                        file_size_in_bytes=(tmp_path / "old.parquet").stat().st_size,
                    )
                )
    assert rows_of(source(tmp_path)) == [{"x": 1, "city": "Rome"}, {"x": 2, "city": "Rome"}]


# ---------------------------------------------------------------- jobs


@in_every_mode
def test_a_job_predicts_a_table_and_finds_its_bad_rows_again(executor: Runs, tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 30), lake.rows(30, 20))
    [*paths] = [file.name for file in source(tmp_path).inputs()]
    lake.delete_rows(tmp_path, {path: [0] for path in paths})
    bad = {5, 41}
    more = {"errors": "quarantine", "errors.max_bad_rows": 2, "model.values": sorted(bad)}
    report = executor(job(tmp_path, "poisoned", **more))
    assert sorted(predicted(tmp_path)) == [2 * x for x in range(50) if x not in {0, 30, *bad}]
    assert (report.rows_in, report.rows_quarantined) == (48, 2)
    for file in (tmp_path / "out/_runner/quarantine").iterdir():
        [row] = pq.read_table(file).to_pylist()
        stored = pq.read_table(row["_source"]).to_pylist()[row["_row"]]
        assert stored == {"x": row["x"], "name": row["name"]}, "the file and the number find the row again"
        bad.discard(row["x"])
    assert not bad
    assert main(_verify(job(tmp_path, "poisoned", **more))) == 0


def _verify(config: dict[str, Any]) -> list[str]:
    import json

    given = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]
    catalog = [f"source.catalog.{name}={value}" for name, value in config["source.catalog"].items()]
    return ["action=verify", "verify.deep=true", *catalog, *(each for each in given if "source.catalog=" not in each)]


def test_a_resumed_job_reads_the_planned_snapshot_whatever_others_did_since(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 10), lake.rows(10, 10), lake.rows(20, 10))
    last = source(tmp_path).inputs()[-1].name
    fails = {"model.value": pq.read_table(last).column("x")[4].as_py(), "model.unless": str(tmp_path / "mended")}
    with pytest.raises(JobFailed):
        inline(tmp_path, "failing_on", **fails)
    lake.append(tmp_path, lake.rows(30, 5))
    lake.delete_rows(tmp_path, {last: [4]})
    lake.replace_files(tmp_path)
    with lake.table(tmp_path) as table, table.update_schema() as update:
        update.rename_column("x", "y")
    (tmp_path / "mended").touch()
    report = inline(tmp_path, "failing_on", **fails)
    assert report.committed_before
    assert sorted(predicted(tmp_path)) == twice(range(30))
    assert any("1 input file in no recorded plan, NOT predicted" in note for note in report.notes)


def test_append_predicts_what_was_appended_and_nothing_twice(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 10), lake.rows(10, 10))
    append = {"sink.save_mode": "append"}
    inline(tmp_path, **append)
    calm = digests(tmp_path)
    assert inline(tmp_path, **append).committed == 0
    lake.append(tmp_path, lake.rows(20, 5), lake.rows(25, 5))
    lake.replace_files(tmp_path)  # of new rows and old ones
    lake.append(tmp_path, lake.rows(30, 5))
    inline(tmp_path, **append)
    assert sorted(predicted(tmp_path)) == twice(range(35))
    assert calm.items() <= digests(tmp_path).items()
    lake.replace_files(tmp_path)
    assert inline(tmp_path, **append).committed == 0
    lake.append(tmp_path, lake.rows(35, 5))
    [newest] = {file.name for file in source(tmp_path).inputs()} - _files(tmp_path, before_last=True)
    lake.delete_rows(tmp_path, {newest: [0]})
    inline(tmp_path, **append)
    assert sorted(predicted(tmp_path)) == twice(range(35), range(36, 40)), "a row that was deleted again is not new"
    assert main(_verify(job(tmp_path, mode="inline"))) == 0


def _files(tmp_path: Path, *, before_last: bool) -> set[str]:
    there = source(tmp_path)._table
    snapshot = there.history()[-2 if before_last else -1].snapshot_id
    return {file.name for file in source(tmp_path, snapshot_id=snapshot).inputs()}


def test_append_refuses_what_it_cannot_tell_or_would_mix(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 10))
    inline(tmp_path)
    with lake.table(tmp_path) as table:
        table.overwrite(lake.rows(100, 3), overwrite_filter="x < 5")
    assert any("NOT predicted" in note for note in inline(tmp_path).notes), "a resume has nothing to do, and says so"
    with pytest.raises(
        ConfigError, match=r"snapshot \d+ has overwritten rows since \d+ was planned.*overwrite starts over"
    ):
        inline(tmp_path, **{"sink.save_mode": "append"})
    assert inline(tmp_path, **{"sink.save_mode": "overwrite"}).rows_out == 8
    lake.append(tmp_path, lake.rows(200, 1), lake.rows(201, 1), lake.rows(202, 1))
    with lake.table(tmp_path) as table:
        now = table.current_snapshot().snapshot_id
        table.maintenance.expire_snapshots().by_ids(
            [s.snapshot_id for s in table.snapshots() if s.snapshot_id != now]
        ).commit()
    assert inline(tmp_path).committed == 0
    with pytest.raises(
        ConfigError, match=r"snapshot \d+, which was planned last, is not among those.*[Kk]eep snapshots"
    ):
        inline(tmp_path, **{"sink.save_mode": "append"})


def test_another_table_does_not_resume_this_one(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 10))
    lake.create(tmp_path, lake.rows(0, 10), name="shop.others")
    inline(tmp_path)
    with pytest.raises(SinkRefused, match="predictions of other files"):
        inline(tmp_path, **{"source.table": "shop.others"})


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"table": "orders"}, r"source\.table=orders: expected a namespace and a name, such as sales\.orders"),
        ({"table": "shop.order"}, r"source\.table=shop\.order: there is no such table \(did you mean 'orders'\?\)"),
        ({"table": "shp.orders"}, r"source\.table=shp\.orders: there is no namespace 'shp' \(did you mean 'shop'\?\)"),
        ({"snapshot_id": 7}, r"source\.snapshot_id=7: shop\.orders has no such snapshot; has it expired\? There is \d+"),
        ({"filters": [["y", "=", 1]]}, r"source\.filters=\[\['y', '=', 1\]\]: there is no column 'y'"),
        ({"filters": [["x", "=", "one"]]}, r"source\.filters"),
        ({"filters": [["x", ">", 50]]}, r"source\.table=shop\.orders: there are no rows that pass source\.filters"),
        ({"columns": ["nam"]}, r"source\.columns: there is no column 'nam' in the input \(did you mean 'name'\?\)"),
        ({"catalog": {"type": "hive"}}, r"source\.catalog: cannot be used: URI missing"),
        ({"catalog": {"uri": "sqlite:////nowhere/c.db"}}, r"source\.catalog: there is no database /nowhere/c\.db"),
        ({"catalog": {"type": "odd"}}, r"source\.catalog: cannot be used: 'odd' is not a valid CatalogType"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    lake.create(tmp_path, lake.rows(0, 10))
    with pytest.raises(ConfigError, match=said):
        Iceberg(**{"catalog": lake.properties(tmp_path), "table": lake.TABLE, **more}).inspect(
            Iceberg(**{"catalog": lake.properties(tmp_path), "table": lake.TABLE, **more}).inputs()
        )


@pytest.mark.usefixtures("short_waits")
def test_a_catalog_that_does_not_answer_may_answer_later() -> None:
    with pytest.raises(Incomplete, match=r"source\.catalog: does not answer: .*127\.0\.0\.1"):
        Iceberg({"type": "rest", "uri": "http://127.0.0.1:9"}, lake.TABLE).inputs()


def test_files_that_are_gone_or_cannot_be_applied(tmp_path: Path) -> None:
    lake.create(tmp_path, lake.rows(0, 10))
    assert main([*_verify(job(tmp_path, mode="inline"))[2:], "source.table=shop.orders"]) == 0
    [file] = source(tmp_path).inputs()
    lake.delete_equal(tmp_path, pa.table({"x": [3]}), field_id=1)
    with pytest.raises(ConfigError, match=r"has equality deletes, which pyiceberg cannot apply; rewrite the data"):
        source(tmp_path).inputs()
    Path(file.name).unlink()
    snapshot = source(tmp_path)._table.history()[0].snapshot_id
    with pytest.raises(ConfigError, match=r"\.parquet is gone; files are deleted when their snapshots expire"):
        inline(tmp_path, **{"source.snapshot_id": snapshot, "sink.save_mode": "overwrite"})
    for metadata in (tmp_path / "warehouse/shop/orders/metadata").glob("*.json"):
        metadata.unlink()
    with pytest.raises(ConfigError, match=r"the catalog has it, but its metadata are gone"):
        source(tmp_path).inputs()


def test_an_empty_table_is_a_success_where_that_is_allowed(tmp_path: Path) -> None:
    lake.create(tmp_path)
    with pytest.raises(ConfigError, match=r"there are no rows \(source\.allow_empty=true"):
        inline(tmp_path)
    assert inline(tmp_path, **{"source.allow_empty": True}).rows_out == 0
    lake.append(tmp_path, lake.rows(0, 3))
    assert inline(tmp_path, **{"source.allow_empty": True}).rows_out == 3
