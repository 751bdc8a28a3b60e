"""What the sinks of table formats share: parts that a commit shows, in one file or in one for each partition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import S3Server

from runner import ConfigError
from runner.arrow.schemas import DoesNotFit
from runner.sinks import partitioned
from runner.sinks.formats import Parquet
from runner.sinks.partitioned import split
from runner.sinks.parts import OURS, Parts, Records
from runner.testing import check_sink
from runner.types import Fragment, Input, Shard, Sink, Written

SHARD = Shard(3, "0123456789abcdef", "", (Fragment(Input("a", 1, "1"), 1, 5),))
ROWS = pa.table({"key": ["b", None, "a", "b", None], "n": [0, 1, 2, 3, 4]})


@dataclass(frozen=True)
class Table(Sink):
    """The least that a table format is: a list of the files that readers see."""

    parts: Parts

    @property
    def records(self) -> Records:
        return self.parts.records

    def settings(self) -> Mapping[str, Any]:
        return {"format": "least"}

    def check(self, schema: pa.Schema) -> None:
        if refusal := Parquet("zstd").refusal(schema):
            raise ConfigError(refusal)

    def edition(self) -> str:
        return str(len(self.records.read("_log.json") or b""))

    def part(self, shard: Shard) -> str:
        return self.parts.part(shard)

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> Mapping[str, int | None]:
        return self.parts.committed(shards, names)

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        return self.parts.write(shard, schema, tables)

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        return self.parts.examine(shard, size)

    def remove(self, shards: Sequence[Shard]) -> None:
        self.parts.remove(shards)

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:  # noqa: ARG002
        paths = [file.path for shard, _ in parts for file in self.parts.files(shard)]
        self.records.create("_log.json", json.dumps(paths).encode())


@pytest.mark.parametrize("keys", [[], ["flag", "day"]], ids=["whole", "partitioned"])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_the_promises_are_kept(place: str, keys: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root, options = str(tmp_path), {}
    if place == "s3":
        server: S3Server = request.getfixturevalue("s3")
        root, options = f"s3://{server.bucket}/{uuid4().hex}", server.storage_options
    check_sink(lambda: Table(Parts(root, options, partition_by=keys)))


def files(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("stores_keys", [False, True])
def test_a_partitioned_part_has_a_file_for_each_value_in_the_order_of_first_rows(
    tmp_path: Path, stores_keys: bool
) -> None:
    parts = Parts(str(tmp_path), partition_by=["key"], stores_keys=stores_keys)
    written = parts.write(SHARD, ROWS.schema, iter([ROWS.slice(0, 2), ROWS.slice(2)]))
    found = parts.files(SHARD)
    assert [each.partition for each in found] == [{"key": "b"}, {"key": None}, {"key": "a"}]
    assert all(OURS.fullmatch(each.path) for each in found)
    tables = [pq.read_table(tmp_path / each.path) for each in found]
    assert [table.column("n").to_pylist() for table in tables] == [[0, 3], [1, 4], [2]]
    assert {tuple(table.column_names) for table in tables} == {("key", "n") if stores_keys else ("n",)}
    assert written == parts.examine(SHARD)
    assert written.rows == 5


def test_a_partitioned_part_without_its_list_is_not_there_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path), partition_by=["key"])
    parts.write(SHARD, ROWS.schema, iter([ROWS]))
    (tmp_path / parts.files(SHARD)[1].path).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"0001\.parquet"):
        parts.examine(SHARD)
    (tmp_path / parts.part(SHARD)).unlink()
    assert parts.examine(SHARD) is None
    assert not parts.committed([SHARD], parts.records.names())


def test_removing_a_partitioned_part_leaves_nothing(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path), partition_by=["key"])
    parts.write(SHARD, ROWS.schema, iter([ROWS]))
    parts.remove([SHARD])
    assert files(tmp_path) == []


def test_too_many_values_in_a_shard_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioned, "MOST_FILES", 2)
    parts = Parts(str(tmp_path), partition_by=["n"])
    with pytest.raises(DoesNotFit, match="something coarser"):
        parts.write(SHARD, ROWS.schema, iter([ROWS]))
    assert files(tmp_path) == []


def test_rows_are_split_by_several_keys_in_order() -> None:
    table = pa.table({"a": [1, 1, 2, 1], "b": [True, None, True, True], "n": [0, 1, 2, 3]})
    found = [(values, rows.column("n").to_pylist()) for values, rows in split(table, ["a", "b"])]
    assert found == [(("1", "true"), [0, 3]), (("1", None), [1]), (("2", "true"), [2])]
    assert list(split(table.slice(0, 0), ["a"])) == []


def test_records_are_listed_without_the_data_of_others(tmp_path: Path) -> None:
    for name in ("_runner/recipe.json", "_SUCCESS", "x=1/part-0.parquet", "_delta_log/0.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert Parts(str(tmp_path)).records.names() == {"_runner/recipe.json": 0, "_SUCCESS": 0}


def test_what_killed_workers_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "predictions").mkdir()
    for name in (f".{SHARD.name}.parquet.0123abcd.tmp", f".{SHARD.name}-0001.parquet.0123abcd.tmp", "else.tmp"):
        (tmp_path / "predictions" / name).write_bytes(b"")
    Parts(str(tmp_path)).drop_temporaries()
    assert files(tmp_path) == ["predictions/else.tmp"]


def test_the_note_of_an_output_is_that_of_its_first_run(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path))
    assert parts.output() is None
    first = parts.note_output("one", "append")
    assert first.keeps
    assert parts.note_output("two", "resume") == first == parts.output()
