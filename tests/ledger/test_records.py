"""Plans, receipts and manifests: what is written in pieces comes back whole, also what earlier versions wrote."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_job import job, manifest, write_input

from runner import run
from runner.ledger import ledger, records
from runner.ledger.recipe import Recorded
from runner.sinks.files import Files as Sink
from runner.sources.files import Files
from runner.storage.folder import Folder
from runner.types import Fragment, Input, Receipt, Shard, Stages


def shards(count: int, fragments: int = 3) -> list[Shard]:
    """Shards of some folders, each of some files."""
    return [
        Shard(i, f"{i:016x}", f"k={i % 2}", tuple(fragment(f"k={i % 2}", i * fragments + j) for j in range(fragments)))
        for i in range(count)
    ]


def fragment(folder: str, number: int) -> Fragment:
    file = Input(f"/in/{folder}/{number}", number, f"v{number}", folder)
    return Fragment(file, number, None if number % 3 else number, number, (0, 1) if number % 2 else None)


def receipt(shard: Shard) -> Receipt:
    return Receipt(shard.id, 3, 2, 1, 99, f"sha256:{shard.id}", Stages(0.1, 0.2, 0.3), "here:1", ("row 7: bad",))


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_a_plan_is_written_and_read_in_pieces(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(records, "PLAN_ROWS", rows)
    written = records.plan_file(shards(5))
    assert pq.ParquetFile(io.BytesIO(written)).num_row_groups == -(-15 // rows)
    assert records.plan_of(written) == shards(5)


def test_a_plan_of_an_earlier_version_is_followed() -> None:
    rows = [dict(zip(records.COLUMNS, row, strict=True)) for row in records.to_rows(shards(5))]
    schema = pq.read_schema(io.BytesIO(records.plan_file(shards(1))))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    assert records.plan_of(buffer.getvalue()) == shards(5)


def test_a_plan_without_shards_is_a_plan() -> None:
    assert records.plan_of(records.plan_file([])) == []


def test_a_plan_that_is_read_says_the_same_thing_once() -> None:
    found = records.plan_of(records.plan_file(shards(40)))
    files = [each.input for shard in found for each in shard.fragments]
    assert len({id(file.folder) for file in files} | {id(shard.folder) for shard in found}) == 2
    assert len({id(each.span) for shard in found for each in shard.fragments}) == 2


# ---------------------------------------------------------------- receipts


def test_what_a_receipt_says_of_its_part_comes_back() -> None:
    [one] = shards(1)
    line = records.receipt_line(receipt(one)).encode()
    assert records.entry_of(line) == (one.id, records.Entry(3, 2, 1, 99, f"sha256:{one.id}"))
    assert json.loads(line)["complaints"] == ["row 7: bad"]


ENDLESS = b'{"shard": "a", "rows_in": Infinity, "rows_out": 1, "rows_quarantined": 0, "bytes_out": 1, "checksum": ""}'


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"shard": "a"}', b"\xff", ENDLESS])
def test_a_damaged_receipt_is_none(line: bytes) -> None:
    assert records.entry_of(line) is None


@pytest.mark.parametrize("checksum", ["sha256:0", "", "of another kind"])
def test_what_is_known_of_a_part_is_packed_and_unpacked(checksum: str) -> None:
    entry = records.Entry(2**40, 3, 0, 99, checksum)
    assert records.Entry.unpacked(entry.packed()) == entry


def test_receipts_are_flushed_before_they_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FLUSH_RECEIPTS", 2)
    write_input(tmp_path / "in", files=5)
    run(job(tmp_path, mode="inline"))
    lines = [len(file.read_text().splitlines()) for file in (tmp_path / "out").rglob("receipts-*")]
    assert sorted(lines) == [1, 2, 2]


# ---------------------------------------------------------------- the manifest


def pieces(count: int) -> list[bytes]:
    entries = {shard.id: records.Entry(3, 2, 1, 99, f"sha256:{shard.id}").packed() for shard in shards(count)}
    return list(records.manifest("f", ["/in/gone"], shards(count), lambda shard: f"{shard.name}.parquet", entries))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_manifest_has_totals_and_a_line_for_each_part(count: int) -> None:
    text = b"".join(pieces(count))
    content = json.loads(text)
    assert [content[key] for key in ("rows_in", "rows_out", "rows_quarantined", "bytes")] == [
        3 * count, 2 * count, count, 99 * count,
    ]  # fmt: skip
    assert [part["shard"] for part in content["parts"]] == [shard.id for shard in shards(count)]
    assert text.count(b'"checksum"') == sum(b'"checksum"' in line for line in text.splitlines()) == count


def test_a_manifest_is_never_whole_in_memory() -> None:
    assert max(map(len, pieces(500))) < 2 * max(map(len, pieces(50)))


@pytest.mark.parametrize("indent", [None, 1])
def test_what_was_skipped_is_read_of_any_version(indent: int | None) -> None:
    text = json.dumps(json.loads(b"".join(pieces(3))), indent=indent).encode()
    assert records.head_of(io.BytesIO(text))["skipped"] == ["/in/gone"]


def test_of_a_manifest_only_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "HEAD_BYTES", 8)
    file = io.BytesIO(b"".join(pieces(500)))
    assert records.head_of(file)["skipped"] == ["/in/gone"]
    assert file.tell() < len(pieces(500)[0]) + 8


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"parts": [', b'{"skipped": [], "par'])
def test_a_damaged_manifest_says_nothing(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        records.head_of(io.BytesIO(text))["skipped"]


def test_parts_without_receipts_are_read_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "in", files=6)
    run(job(tmp_path, mode="inline"))
    before = manifest(tmp_path)
    for name in [*(tmp_path / "out").rglob("receipts-*"), tmp_path / "out/_SUCCESS"]:
        name.unlink()
    read: list[str] = []
    plain = Folder.read
    monkeypatch.setattr(Folder, "read", lambda store, name: read.append(name) or plain(store, name))  # type: ignore[func-returns-value]
    run(job(tmp_path, mode="inline"))
    assert sorted(name for name in read if name.startswith("part-")) == [part["part"] for part in before["parts"]]
    assert manifest(tmp_path) == before


# ---------------------------------------------------------------- memory for each shard


def large_sink(folder: Path, count: int) -> None:
    """A sink in which every part and its receipt is there, and a manifest, but no `_SUCCESS`."""
    sink = Sink("parquet", str(folder))
    first = ledger.Ledger(sink, "first")
    first.record_recipe(Recorded({}, None, None))
    first.record_plan([Shard(i, f"{i:016x}", "", (fragment("", i),)) for i in range(count)])
    for shard in first.shards:
        (folder / first.part(shard)).write_bytes(bytes(99))
        first.receive(receipt(shard), shard)
    first.finish()
    (folder / "_SUCCESS").unlink()


def test_a_ledger_holds_the_plan_and_little_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 2000
    monkeypatch.setattr(ledger, "FLUSH_RECEIPTS", count // 100)  # what is held of them at a time is not for each shard
    monkeypatch.setattr(ledger, "THREADS", 1)
    large_sink(tmp_path, count)
    tracemalloc.start()
    try:
        opened = ledger.Ledger(Sink("parquet", str(tmp_path)), "second")
        plan = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.reset_peak()
        opened.finish()
        peak = tracemalloc.get_traced_memory()[1] / count
    finally:
        tracemalloc.stop()
    assert plan < 700, "bytes per shard: beside the plan only the ids of what is committed are kept"
    assert peak < 2 * plan, "beside the plan, a listing and what the receipts say"


def test_a_source_does_not_keep_its_listing(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=3)
    source = Files(str(tmp_path / "in"), "parquet")

    def held() -> int:
        gc.collect()
        return sum(type(each) is Input and each.name.startswith(str(tmp_path)) for each in gc.get_objects())

    files = source.inputs()
    assert held() == len(files) == 3
    del files
    assert held() == 0


# ---------------------------------------------------------------- work that does not grow with what is done


class Counting(list[Input]):
    """Files; remembers how often somebody went through all of them."""

    rounds = 0

    def __iter__(self) -> Any:
        Counting.rounds += 1
        return super().__iter__()


@pytest.mark.parametrize("files", [3, 30])
def test_a_resume_goes_through_the_input_a_few_times_however_much_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    write_input(tmp_path / "in", files=files, rows=1)
    run(job(tmp_path, mode="inline"))
    (tmp_path / "in/000.parquet").unlink()
    plain = Files.inputs
    monkeypatch.setattr(Files, "inputs", lambda source: Counting(plain(source)))
    Counting.rounds = 0
    run(job(tmp_path, mode="inline"))
    assert Counting.rounds <= 5


def test_what_names_the_rest_is_deleted_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    deleted: list[str] = []
    plain = Folder.delete
    monkeypatch.setattr(Folder, "delete", lambda store, name: deleted.append(name) or plain(store, name))  # type: ignore[func-returns-value]
    run(job(tmp_path, mode="inline", **{"sink.save_mode": "overwrite"}))
    wiped = [name for name in deleted if "mark" not in name]
    assert wiped[0] == "_SUCCESS"
    assert wiped[wiped.index("_runner/plan-000000.parquet") :][:2] == [
        "_runner/plan-000000.parquet",
        "_runner/recipe.json",
    ]
    assert {name for name in wiped if name.startswith("part-")} == {
        path.name for path in (tmp_path / "out").glob("part-*")
    }


def test_a_plan_of_an_earlier_version_is_read() -> None:
    """It told row groups in two columns of numbers, and nothing for what has none."""
    columns = {
        "sequence": [0, 0, 1], "shard": ["a", "a", "b"], "folder": ["", "", "k=1"], "path": ["x", "y", "z"],
        "size": [9, 9, 9], "version": ["1", "1", "2"], "bytes": [3, 4, 9], "rows": [5, None, 2], "first_row": [0, 5, 0],
        "first_row_group": [0, 2, None], "end_row_group": [2, 3, None],
    }  # fmt: skip
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    first = (
        Fragment(Input("x", 9, "1"), 3, 5, 0, (0, 2), joinable=True),
        Fragment(Input("y", 9, "1"), 4, None, 5, (2, 3), joinable=True),
    )
    second = (Fragment(Input("z", 9, "2", "k=1"), 9, 2),)
    assert records.plan_of(file.getvalue()) == [Shard(0, "a", "", first), Shard(1, "b", "k=1", second)]


def test_a_span_comes_back_from_the_plan_as_it_was_given() -> None:
    spans: list[tuple[Any, ...] | None] = [None, ("a", 1.5, None), ((1, "x"), (2, "y")), (0, 3)]
    fragments = [Fragment(Input("t", 1, "1"), 1, None, i, span) for i, span in enumerate(spans)]
    plan = [Shard(0, "a", "", tuple(fragments))]
    assert records.plan_of(records.plan_file(plan)) == plan
