"""Sources on a real S3 server: the same rows as from the disk, few requests, and refusals that name the path."""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy import Proxy, proxy
from servers import S3Server

from runner.driver.planning import make_shards
from runner.errors import ConfigError, Incomplete
from runner.sources.files import Files
from runner.sources.formats import FormatName
from runner.sources.opening import Ranges, merge_ranges

TABLE = pa.table({"n": range(1000), "t": [f"{i:04}" for i in range(1000)], "x": [i / 2 for i in range(1000)]})


@pytest.fixture
def folder(s3: S3Server) -> str:
    return f"{s3.bucket}/{uuid4().hex}"


@pytest.fixture
def filled(s3: S3Server, folder: str, tmp_path: Path) -> str:
    """A folder with one file of ten row groups, whose names are unusual."""
    pq.write_table(TABLE, tmp_path / "a", row_group_size=100, compression="none")
    put(s3, f"{folder}/k=1/a b#%=[1]é.parquet", (tmp_path / "a").read_bytes())
    put(s3, f"{folder}/_hidden/b.parquet", b"")
    put(s3, f"{folder}/k=1/", b"")  # as consoles mark folders
    return f"s3://{folder}"


def put(server: S3Server, path: str, content: bytes) -> None:
    server.s3fs().pipe_file(path, content)


def read(source: Files, columns: list[str] | None = None) -> pa.Table:
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    return pa.concat_tables([table for each in fragments for table in source.reader(schema).read(each, columns)])


@pytest.fixture(scope="module")
def front(s3: S3Server) -> Iterator[Proxy]:
    """A proxy that counts the requests to the server."""
    with proxy(s3) as running:
        yield running


def methods(front: Proxy) -> list[str]:
    """The requests since `calm`: the proxy notes each a moment after the client has its answer."""
    known = -1
    while known != len(front.seen):
        known = len(front.seen)
        time.sleep(0.1)
    return [each.method for each in front.seen]


def test_a_folder_a_glob_and_a_file_are_read(s3: S3Server, filled: str) -> None:
    for path in (filled, f"{filled}/", f"{filled}/k=*/*.parquet", f"{filled}/**/*.parquet"):
        source = Files(path, "parquet", storage_options=s3.storage_options)
        assert [file.name for file in source.inputs()] == [f"{filled}/k=1/a b#%=[1]é.parquet"]
        assert read(source).select(TABLE.column_names).equals(TABLE)
        assert set(read(source).column("k").to_pylist()) == {1}
    again = Files(source.inputs()[0].name, "parquet", storage_options=s3.storage_options)
    assert again.inputs()[0].version == source.inputs()[0].version != ""
    assert read(again).equals(TABLE)


def test_anonymous_reads_what_is_public(s3: S3Server, filled: str) -> None:
    options = {name: value for name, value in s3.anonymous_options.items() if name != "anon"}
    path = filled.replace("s3://", "s3://anonymous@")
    source = Files([path, f"{path}/k=1"], "parquet", storage_options=options)
    assert [file.name for file in source.inputs()] == [f"{path}/k=1/a b#%=[1]é.parquet"]
    assert read(source, ["n"]).num_rows == 1000


def test_row_groups_are_skipped_and_columns_left_out(front: Proxy, filled: str) -> None:
    source = Files(filled, "parquet", filters=[["n", ">=", 950]], storage_options=front.server.storage_options)
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    front.calm()
    reader = source.reader(schema)
    skipped = [list(reader.read(fragment, ["x"])) for fragment in fragments[:9]]
    assert skipped == [[]] * 9
    assert methods(front) == ["GET"] * 9  # the footer of each, and nothing else
    assert [n for table in reader.read(fragments[9], ["n"]) for n in table.column("n").to_pylist()] == list(
        range(950, 1000)
    )


def test_a_row_group_takes_a_request_or_two(front: Proxy, s3: S3Server, folder: str, tmp_path: Path) -> None:
    import numpy as np

    wide = pa.table({f"c{i}": np.random.default_rng(i).random(20_000) for i in range(60)})
    pq.write_table(wide, tmp_path / "a", row_group_size=10_000, compression="none", use_dictionary=False)
    put(s3, f"{folder}/a.parquet", (tmp_path / "a").read_bytes())
    source = Files(f"s3://{folder}", "parquet", storage_options=front.server.storage_options)
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    front.calm()
    found = pa.concat_tables(list(source.reader(schema).read(fragments[0], ["c0", "c30", "c59"])))
    assert found.equals(wide.select(["c0", "c30", "c59"]).slice(0, 10_000))
    assert len(methods(front)) <= 4
    assert sum(each.size for each in front.seen) < fragments[0].input.size / 5


def test_a_huge_row_group_is_read_piece_by_piece(s3: S3Server, filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.sources import parquet

    monkeypatch.setattr(parquet, "HELD_BYTES", 100)
    monkeypatch.setattr(parquet, "LEAST_PIECE_BYTES", 256)
    source = Files(filled, "parquet", filters=[["n", "<", 300]], storage_options=s3.storage_options)
    assert read(source, ["t", "n"]).equals(TABLE.select(["t", "n"]).slice(0, 300))


@pytest.mark.parametrize("fmt", ["csv", "jsonl", "arrow", "orc"])
def test_every_format_is_read(s3: S3Server, folder: str, tmp_path: Path, fmt: FormatName) -> None:
    path = tmp_path / "a"
    if fmt == "arrow":
        pyarrow.feather.write_feather(TABLE, str(path))
    elif fmt == "orc":
        pyarrow.orc.write_table(TABLE, str(path))
    else:
        rows = ["n,t,x", *(f'{r["n"]},"t{r["t"]}",{r["x"]}' for r in TABLE.to_pylist())]
        lines = [f'{{"n":{r["n"]},"t":"t{r["t"]}","x":{r["x"]}}}' for r in TABLE.to_pylist()]
        path.write_bytes(gzip.compress("\n".join(rows if fmt == "csv" else lines).encode()))
    name = f"a.{fmt}.gz" if fmt in {"csv", "jsonl"} else "a"
    put(s3, f"{folder}/{name}", path.read_bytes())
    source = Files(f"s3://{folder}", fmt, storage_options=s3.storage_options)
    assert read(source, ["n", "x"]).equals(TABLE.select(["n", "x"]))
    assert read(source, ["t"]).num_rows == 1000


@pytest.mark.parametrize("below", ["", "/*.parquet", "/k=1"])
def test_a_wrong_secret_is_told_with_the_path(s3: S3Server, filled: str, below: str) -> None:
    source = Files(f"{filled}{below}", "parquet", storage_options={**s3.storage_options, "secret": "wrong"})
    with pytest.raises(ConfigError, match=rf"source\.path={filled}.*PermissionError.*source\.storage_options"):
        source.inputs()


def test_no_files_are_told(s3: S3Server, filled: str) -> None:
    for path in (f"{filled}/none", f"{filled}/*.csv", "s3://no-such-bucket/x"):
        with pytest.raises(ConfigError, match=r"source\.path=.*(no files match|cannot be listed)"):
            Files(path, "parquet", storage_options=s3.storage_options).inputs()


def test_a_truncated_object_is_named(s3: S3Server, folder: str) -> None:
    put(s3, f"{folder}/a.parquet", b"PAR1" + b"\x00" * 100)
    source = Files(f"s3://{folder}", "parquet", storage_options=s3.storage_options)
    with pytest.raises(ConfigError, match=rf"s3://{folder}/a.parquet cannot be read as parquet"):
        source.inspect(source.inputs())


@pytest.mark.slow
def test_a_server_that_is_away_is_worth_another_run() -> None:
    pytest.importorskip("s3fs")
    options = {
        "key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:1", "region_name": "us-east-1"},
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }  # fmt: skip
    with pytest.raises(Incomplete, match=r"source\.path=s3://b/k: cannot be listed"):
        Files("s3://b/k", "parquet", storage_options=options).inputs()


# ---------------------------------------------------------------- ranges


class Bytes:
    """One file, counting what is fetched."""

    def __init__(self, content: bytes) -> None:
        self.content, self.fetched = content, 0

    def __call__(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        self.fetched += len(ranges)
        return [memoryview(self.content)[start:end] for start, end in ranges]


RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda each: (each[0], sum(each))), max_size=5)


@given(RANGES, st.lists(st.tuples(st.integers(0, 80), st.integers(-1, 30)), max_size=8))
def test_ranges_read_like_a_file(held: list[tuple[int, int]], reads: list[tuple[int, int]]) -> None:
    import io

    content = bytes(range(70))
    ranges, file = Ranges(Bytes(content), len(content)), io.BytesIO(content)
    ranges.prefetch([(start, min(end, len(content))) for start, end in held])
    for at, size in reads:
        assert ranges.seek(at) == file.seek(at)
        assert ranges.read(size) == file.read(size)
        assert ranges.tell() == file.tell()
    assert ranges.seek(-3, 2) == file.seek(-3, 2)
    assert ranges.seek(1, 1) == file.seek(1, 1)


@given(RANGES, st.integers(0, 10))
def test_merged_ranges_cover_the_same_in_order_and_apart(ranges: list[tuple[int, int]], near: int) -> None:
    found = list(merge_ranges(ranges, near))
    covered = {at for start, end in found for at in range(start, end)}
    assert {at for start, end in ranges for at in range(start, end)} <= covered
    assert all(end + near < start for (_, end), (start, _) in itertools.pairwise(found))


def test_what_is_held_is_not_fetched_again() -> None:
    fs = Bytes(bytes(range(70)))
    ranges = Ranges(fs, 70)
    ranges.prefetch([(0, 10), (5, 20)])
    assert ranges.read(15) == fs.content[:15]
    assert fs.fetched == 1
    ranges.read(20)
    assert fs.fetched == 2


def test_what_is_held_already_is_kept_until_something_else_is_wanted() -> None:
    fs = Bytes(bytes(range(70)))
    ranges = Ranges(fs, 70)
    ranges.prefetch([(0, 70)])
    ranges.prefetch([(5, 20), (60, 70)])
    assert (bytes(ranges.read(70)), fs.fetched) == (fs.content, 1)
    ranges.prefetch([])
    ranges.seek(0)
    assert (bytes(ranges.read(70)), fs.fetched) == (fs.content, 2)


def test_a_small_file_is_read_in_one_request(front: Proxy, filled: str) -> None:
    source = Files(filled, "parquet", storage_options=front.server.storage_options)
    [file] = source.inputs()
    fragments, schema = source.inspect([file])
    assert schema is not None
    [whole] = [each for shard in make_shards(fragments, None) for each in shard.fragments]
    front.calm()
    assert sum(table.num_rows for table in source.reader(schema).read(whole)) == 1000
    assert methods(front) == ["GET"]
