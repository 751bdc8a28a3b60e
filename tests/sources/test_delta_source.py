"""The source `delta`: one version of a table, and with `append` what was added since, whoever compacted the table in between."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from deltalake import DeltaTable, write_deltalake
from servers import S3Server
from test_job import parts, predicted

from runner import ConfigError, run
from runner.__main__ import main
from runner.sources.delta import Delta
from runner.sources.delta_files import Pinned
from runner.sources.delta_log import _promised
from runner.storage.delta import log_options
from runner.testing import check_source

DAYS = ["2026-01-01", "2026-01-02"]


def rows(first: int, count: int = 20) -> pa.Table:
    """Consecutive numbers, half of them of each day."""
    x = list(range(first, first + count))
    days = pa.array([DAYS[2 * i // count] for i in range(count)]).cast(pa.date32())
    return pa.table({"x": x, "id": [f"row {v}" for v in x], "day": days})


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three versions, each with twenty rows more, partitioned by day."""
    for version in range(3):
        write_deltalake(tmp_path / "in", rows(20 * version), mode="append", partition_by=["day"])
    return tmp_path / "in"


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    config = {
        "source": "delta",
        "source.path": str(tmp_path / "in"),
        "model": "custom",
        "sink.path": str(tmp_path / "out"),
    }
    return {
        **config,
        "model._target_": f"predictors.{loader}",
        "mode": "inline",
        "batch_size": 10,
        "shard_bytes": None,
        **more,
    }


def typed(config: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in config.items()]


def doubled(*xs: int) -> list[int]:
    return sorted(2 * x for x in xs)


def read(source: Delta) -> list[dict[str, Any]]:
    inputs = source.inputs()
    fragments, schema = source.inspect(inputs)
    assert schema is not None
    reader = source.reader(schema)
    return [row for each in fragments for tables in reader.read(each) for row in tables.to_pylist()]


# ---------------------------------------------------------------- the promises, and the main path


def test_the_promises_are_kept(table: Path) -> None:
    check_source(Delta(str(table)))
    check_source(Delta(str(table), columns=["day", "x"], filters=[["x", ">", 10], ["day", "=", DAYS[1]]]))


@pytest.mark.slow
def test_the_promises_are_kept_on_s3(s3: S3Server) -> None:
    path = f"s3://{s3.bucket}/{uuid4().hex}"
    for first in (0, 20):
        options = log_options(path, s3.storage_options, "")
        write_deltalake(path, rows(first), mode="append", partition_by=["day"], storage_options=options)
    check_source(Delta(path, storage_options=s3.storage_options))
    assert len(read(Delta(path, version=0, storage_options=s3.storage_options))) == 20


def test_rows_are_predicted_then_those_that_come_whatever_is_compacted(
    executor: Runs, table: Path, tmp_path: Path
) -> None:
    config = job(tmp_path, **{"sink.keep_columns": ["day"]})
    del config["mode"]
    executor(config)
    assert sorted(predicted(tmp_path)) == doubled(*range(60))
    write_deltalake(table, rows(60), mode="append")
    DeltaTable(table).optimize.compact()
    write_deltalake(table, rows(80), mode="append")
    report = executor(config)
    assert report.committed == 0
    assert any("NOT predicted" in note for note in report.notes)
    executor({**config, "sink.save_mode": "append"})
    assert sorted(predicted(tmp_path)) == doubled(*range(100))
    DeltaTable(table).optimize.compact()
    assert executor({**config, "sink.save_mode": "append"}).committed == 0
    assert main([*typed({**config, "mode": "inline"}), "action=verify", "verify.deep=true"]) == 0


def test_a_version_is_kept_when_a_job_is_resumed(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, "failing_on", **{"model.value": 30, "model.unless": str(tmp_path / "mended")})
    with pytest.raises(Exception, match="30"):
        run(config)
    assert parts(tmp_path)
    write_deltalake(table, rows(60), mode="append")
    DeltaTable(table).optimize.compact()
    (tmp_path / "mended").touch()
    run(config)
    assert sorted(predicted(tmp_path)) == doubled(*range(60))


def test_an_older_version_is_read(table: Path) -> None:
    assert sorted(row["x"] for row in read(Delta(str(table), version=1))) == list(range(40))


def test_delta_to_delta(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, **{"sink": "delta", "sink.keep_columns": ["day"], "sink.partition_by": ["day"]})
    run(config)
    write_deltalake(table, rows(60), mode="append")
    run({**config, "sink.save_mode": "append"})
    found = DeltaTable(tmp_path / "out").to_pyarrow_table()
    assert sorted(found["twice"].to_pylist()) == doubled(*range(80))
    assert DeltaTable(tmp_path / "out").version() == 2


@pytest.mark.usefixtures("table")
def test_a_bad_row_is_found_again_by_its_number(tmp_path: Path) -> None:
    run(job(tmp_path, "poisoned", **{"model.values": [7, 33], "errors": "quarantine", "errors.max_bad_rows": 5}))
    found = [row for path in (tmp_path / "out/_runner/quarantine").iterdir() for row in pq.read_table(path).to_pylist()]
    assert sorted(row["id"] for row in found) == ["row 33", "row 7"]
    for row in found:
        assert pq.read_table(row["_source"], partitioning=None)["x"][row["_row"]].as_py() == row["x"]
        assert str(row["day"]) in DAYS


# ---------------------------------------------------------------- what is left out


def test_a_bound_that_is_no_number_leaves_nothing_out() -> None:
    """Spark takes NaN for the greatest of all values."""
    action = {"min": {"x": 1.0}, "max": {"x": float("nan")}}
    assert str(_promised(action, pa.schema([("x", pa.float64())]), {}, ["x"])) == "true"


def test_partitions_and_statistics_leave_files_out(table: Path) -> None:
    assert len(Delta(str(table)).inputs()) == 6
    assert len(Delta(str(table), filters=[["day", "=", DAYS[0]]]).inputs()) == 3
    assert len(Delta(str(table), filters=[["x", ">=", 45]]).inputs()) == 2
    found = read(Delta(str(table), filters=[["x", ">=", 45], ["day", "=", DAYS[0]]]))
    assert sorted(row["x"] for row in found) == list(range(45, 50))
    with pytest.raises(ConfigError, match=r"no rows that pass source\.filters"):
        Delta(str(table), filters=[["x", ">", 100]]).inputs()
    assert Delta(str(table), filters=[["x", ">", 100]], allow_empty=True).inputs() == []


def test_new_files_that_no_filter_lets_pass_are_not_new(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, **{"source.filters": [["day", "=", DAYS[0]]], "sink.save_mode": "append"})
    run(config)
    write_deltalake(table, rows(60), mode="append")
    assert run(config).committed == 1
    assert sorted(predicted(tmp_path)) == doubled(*[x for x in range(80) if x % 20 < 10])


@pytest.mark.parametrize(
    "values", [["a b/c", "é%20", None], [True, False, None], [1, -5, None]], ids=["text", "bool", "int"]
)
def test_partition_values_come_from_the_log(tmp_path: Path, values: list[Any]) -> None:
    write_deltalake(tmp_path / "in", pa.table({"p": values, "n": [0, 1, 2]}), partition_by=["p"])
    found = read(Delta(str(tmp_path / "in")))
    assert sorted(found, key=lambda row: row["n"]) == [{"n": n, "p": p} for n, p in enumerate(values)]


def test_a_column_that_came_later_is_null_in_older_files(table: Path) -> None:
    more = rows(60).append_column("note", pa.array(["new"] * 20))
    write_deltalake(table, more, mode="append", schema_mode="merge")
    found = {row["x"]: row["note"] for row in read(Delta(str(table)))}
    assert {found[x] for x in range(60)} == {None}
    assert {found[x] for x in range(60, 80)} == {"new"}


# ---------------------------------------------------------------- what append does not take


def test_deleted_rows_stay_predicted_and_are_not_read_again(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, **{"sink.save_mode": "append"})
    run(config)
    DeltaTable(table).delete("x = 3")
    assert run(config).committed == 0
    write_deltalake(table, rows(60), mode="append")
    run(config)
    assert sorted(predicted(tmp_path)) == doubled(*range(80))


def test_changed_rows_and_a_log_that_was_cleaned_up_are_refused(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, **{"sink.save_mode": "append"})
    run(config)
    DeltaTable(table).update(updates={"id": "'other'"}, predicate="x = 3")
    with pytest.raises(ConfigError, match=r"version 3 \(UPDATE\) has changed or replaced rows"):
        run(config)
    DeltaTable(table).create_checkpoint()
    (table / "_delta_log/00000000000000000003.json").unlink()
    with pytest.raises(ConfigError, match=r"cleaned up after version 2"):
        run(config)


def test_wrong_tables_and_versions_are_told(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source\.version=9 is not there \(the newest is 2\)"):
        Delta(str(table), version=9).inputs()
    with pytest.raises(ConfigError, match="is no Delta table"):
        Delta(str(tmp_path / "nothing")).inputs()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="is no Delta table"):
        Delta(str(tmp_path / "folder")).inputs()


def test_files_that_were_vacuumed_are_told(table: Path) -> None:
    DeltaTable(table).optimize.compact()
    DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    old = Delta(str(table), version=2)
    with pytest.raises(ConfigError, match=r"version 2: .* is gone: VACUUM deletes files"):
        old.inspect(old.inputs())


def test_a_server_that_is_down_may_be_up_later(monkeypatch: pytest.MonkeyPatch, short_waits: None) -> None:  # noqa: ARG001
    monkeypatch.setattr("runner.storage.delta.PATIENCE", {"max_retries": "0", "retry_timeout": "1s"})
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    with pytest.raises(ConnectionError, match=r"s3://b/t: .*127\.0\.0\.1:9"):
        Delta("s3://b/t", storage_options=options).inputs()


# ---------------------------------------------------------------- tables that deltalake does not write


def rewritten(table: Path, version: int, *actions: dict[str, Any]) -> None:
    (table / f"_delta_log/{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))


def log_of(table: Path, version: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (table / f"_delta_log/{version:020d}.json").read_text().splitlines()]


def vector(numbers: Sequence[int]) -> dict[str, Any]:
    """A deletion vector within the log: a roaring bitmap with one array, in the text form of the protocol."""
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(numbers) - 1, 16) + struct.pack(f"<{len(numbers)}H", *numbers)
    content = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    signs = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = ""
    for at in range(0, len(content), 4):
        value = int.from_bytes(content[at : at + 4].ljust(4, b"\0"), "big")
        text += "".join(signs[value // 85**power % 85] for power in (4, 3, 2, 1, 0))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(content), "cardinality": len(numbers)}


@pytest.fixture
def vectored(tmp_path: Path) -> Path:
    """A table of 20 rows, of which a deletion vector names 1 and 3."""
    table = tmp_path / "in"
    write_deltalake(table, rows(0), configuration={"delta.enableDeletionVectors": "true"})
    [add] = [each["add"] for each in log_of(table, 0) if "add" in each]
    gone = {"path": add["path"], "dataChange": True, "deletionTimestamp": 1, "size": add["size"], "partitionValues": {}}
    new = {**add, "deletionVector": vector([1, 3])}
    rewritten(table, 1, {"commitInfo": {"operation": "DELETE", "timestamp": 1}}, {"remove": gone}, {"add": new})
    return table


def test_deletion_vectors_are_honoured(vectored: Path, tmp_path: Path) -> None:
    left = [x for x in range(20) if x not in (1, 3)]
    source = Delta(str(vectored))
    assert [row["x"] for row in read(source)] == left
    check_source(source)
    assert len(read(Delta(str(vectored), version=0))) == 20
    run(job(tmp_path, "poisoned", **{"model.values": [4], "errors": "quarantine", "errors.max_bad_rows": 5}))
    assert sorted(predicted(tmp_path)) == doubled(*[x for x in left if x != 4])
    [aside] = [pq.read_table(path).to_pylist() for path in (tmp_path / "out/_runner/quarantine").iterdir()]
    assert [(row["x"], row["_row"]) for row in aside] == [(4, 4)]


def mapped(table: Path, nested: bool) -> None:
    """A table with column mapping: its files have other names than its columns."""
    (table / "_delta_log").mkdir(parents=True)
    pq.write_table(pa.table({"col-1": [1, 2], "col-3": [{"col-4": 5}, {"col-4": 6}]}), table / "f.parquet")

    def column(name: str, number: int, kind: Any = "long") -> dict[str, Any]:
        named = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": f"col-{number}"}
        return {"name": name, "type": kind, "nullable": True, "metadata": named}

    inner = {"type": "struct", "fields": [column("i", 4)]}
    fields = [column("x", 1), column("p", 2, "string"), *([column("s", 3, inner)] if nested else [])]
    meta = {"id": "m", "format": {"provider": "parquet", "options": {}}, "partitionColumns": ["p"], "createdTime": 1,
            "schemaString": json.dumps({"type": "struct", "fields": fields}),
            "configuration": {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "4"}}  # fmt: skip
    stats = {"numRecords": 2, "minValues": {"col-1": 1}, "maxValues": {"col-1": 2}, "nullCount": {"col-1": 0}}
    add = {"path": "f.parquet", "partitionValues": {"col-2": "a"}, "size": (table / "f.parquet").stat().st_size,
           "modificationTime": 1, "dataChange": True, "stats": json.dumps(stats)}  # fmt: skip
    rewritten(table, 0, {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}, {"metaData": meta}, {"add": add})


def test_column_mapping_is_honoured_for_whole_columns(tmp_path: Path) -> None:
    mapped(tmp_path / "flat", nested=False)
    assert read(Delta(str(tmp_path / "flat"))) == [{"x": 1, "p": "a"}, {"x": 2, "p": "a"}]
    assert read(Delta(str(tmp_path / "flat"), filters=[["x", ">", 1], ["p", "=", "a"]])) == [{"x": 2, "p": "a"}]
    with pytest.raises(ConfigError, match="no rows that pass"):
        Delta(str(tmp_path / "flat"), filters=[["x", ">", 2]]).inputs()
    mapped(tmp_path / "nested", nested=True)
    with pytest.raises(ConfigError, match=r"'s' has fields with other names .*source\.columns can leave"):
        read(Delta(str(tmp_path / "nested")))
    assert len(read(Delta(str(tmp_path / "nested"), columns=["x", "p"]))) == 2


def test_a_table_that_is_newer_than_this_program_is_refused(table: Path) -> None:
    actions = log_of(table, 0)
    for each in actions:
        if "protocol" in each:
            each["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["fromTheFuture"],
                                "writerFeatures": ["fromTheFuture"]}  # fmt: skip
    rewritten(table, 0, *actions)
    with pytest.raises(ConfigError, match=r"the table may be newer than this program: .*fromTheFuture"):
        Delta(str(table)).inputs()


def test_what_is_pinned_is_read_back() -> None:
    pinned = Pinned("id", 3, {"day": None}, deletes=True)
    assert Pinned.of(pinned.text()) == pinned
    assert Pinned.of("1699.5") is None
    assert Pinned.of('["x", 1, 2]') is None


def test_a_table_is_replaced_by_another_of_the_same_name(table: Path, tmp_path: Path) -> None:
    config = job(tmp_path, **{"sink.save_mode": "append"})
    run(config)
    shutil.rmtree(table)
    write_deltalake(table, rows(500))
    assert run(config).committed == 1
    assert {1000, 1038} <= set(predicted(tmp_path))
