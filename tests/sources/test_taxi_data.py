from __future__ import annotations

import datetime
import hashlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runner.sources import taxi

FEW = (50, 0, 70)
NAMES = [f"2009-{month:02}.parquet" for month in range(1, 13)]
TYPES: dict[str, pa.DataType] = {
    "vendor_id": pa.string(),
    "pickup_at": pa.timestamp("us"),
    "dropoff_at": pa.timestamp("us"),
    "passenger_count": pa.int8(),
    "trip_distance": pa.float32(),
    "pickup_longitude": pa.float32(),
    "pickup_latitude": pa.float32(),
    "rate_code_id": pa.string(),
    "store_and_fwd_flag": pa.string(),
    "dropoff_longitude": pa.float32(),
    "dropoff_latitude": pa.float32(),
    "payment_type": pa.string(),
    "fare_amount": pa.float32(),
    "extra": pa.float32(),
    "mta_tax": pa.float32(),
    "tip_amount": pa.float32(),
    "tolls_amount": pa.float32(),
    "total_amount": pa.float32(),
}
SCHEMA = pa.schema(TYPES)


def silent(_: str) -> None:
    """Say nothing."""


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    said: list[str] = []
    return taxi.generate(tmp_path_factory.mktemp("year") / "new" / "folder", say=said.append), said


def test_the_year_has_its_files_rows_and_schema(year: tuple[list[Path], list[str]]) -> None:
    files, said = year
    assert [path.name for path in files] == NAMES
    assert sorted(path.name for path in files[0].parent.iterdir()) == NAMES  # and nothing temporary
    assert [pq.read_metadata(path).num_rows for path in files] == [
        141062, 133932, 144014, 143087, 148108, 141981, 136394, 136999, 139985, 156198, 142893, 145976
    ]  # fmt: skip
    assert all(pq.read_schema(path).remove_metadata().equals(SCHEMA) for path in files)
    assert [pq.read_metadata(path).num_row_groups for path in files] == [1] * 12
    assert said == [f"taxi: generating demo data {position}/12" for position in range(1, 13)]


def test_the_rides_are_plausible(year: tuple[list[Path], list[str]]) -> None:
    november = pq.read_table(year[0][10])
    lowest, highest = pc.min(november["pickup_at"]).as_py(), pc.max(november["pickup_at"]).as_py()
    assert datetime.datetime(2009, 11, 1) <= lowest < highest < datetime.datetime(2009, 12, 1)
    assert pc.all(pc.greater(november["dropoff_at"], november["pickup_at"])).as_py()
    assert set(november["passenger_count"].unique().to_pylist()) == {0, 1, 2, 3, 4, 5, 6}
    assert set(november["vendor_id"].unique().to_pylist()) == {"VTS", "CMT", "DDS"}
    assert november["rate_code_id"].null_count > 0.98 * november.num_rows
    assert pc.min(november["fare_amount"]).as_py() == 2.5
    assert set(november["mta_tax"].unique().to_pylist()) == {0.5}
    parts = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount"]
    totals = sum(november[name].to_numpy().astype("float64") for name in parts)
    assert abs(totals - november["total_amount"].to_numpy()).max() < 1e-4
    cash = november.filter(pc.match_substring(november["payment_type"], "cash", ignore_case=True))
    assert 0 < cash.num_rows < november.num_rows
    assert pc.sum(cash["tip_amount"]).as_py() == 0 < pc.sum(november["tip_amount"]).as_py()


def test_every_month_is_another_and_every_time_the_same(tmp_path: Path) -> None:
    taxi.generate(tmp_path / "one", say=silent, rows=(60, 60))
    taxi.generate(tmp_path / "two", say=silent, rows=(60, 60))
    one = digests(tmp_path / "one")
    assert one == digests(tmp_path / "two")
    first, second = (pq.read_table(tmp_path / "one" / name, columns=["fare_amount"]) for name in NAMES[:2])
    assert not first.equals(second)


def test_another_process_generates_the_same(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    racers = [spawn.Process(target=taxi.ensure, args=(tmp_path / "shared", silent, FEW)) for _ in range(2)]
    for racer in racers:
        racer.start()
    taxi.generate(tmp_path / "ours", say=silent, rows=FEW)
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert digests(tmp_path / "shared") == digests(tmp_path / "ours")


def test_only_missing_files_are_generated(tmp_path: Path) -> None:
    said: list[str] = []
    taxi.ensure(tmp_path, said.append, FEW)
    before = digests(tmp_path)
    (tmp_path / NAMES[0]).write_bytes(b"not ours to replace")
    (tmp_path / NAMES[2]).unlink()
    said.clear()
    taxi.ensure(tmp_path, said.append, FEW)
    assert said == ["taxi: generating demo data 1/1"]
    assert (tmp_path / NAMES[0]).read_bytes() == b"not ours to replace"
    assert digests(tmp_path)[NAMES[2]] == before[NAMES[2]]
    said.clear()
    taxi.ensure(tmp_path, said.append, FEW)
    assert said == []


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: pa.Table, sink: object, **__: object) -> None:
        sink.write(b"PAR1 and then the power went")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        taxi.generate(tmp_path, say=silent, rows=FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_says_how_to_choose_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file.*\(RUNNER_CACHE names another folder for the demo's data\)"):
        taxi.ensure(tmp_path / "file" / "taxi", silent, FEW)


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "{home}/.cache/ray-batch-runner/taxi-v1"),
        ("linux", {"XDG_CACHE_HOME": ""}, "{home}/.cache/ray-batch-runner/taxi-v1"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/ray-batch-runner/taxi-v1"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "{home}/Library/Caches/ray-batch-runner/taxi-v1"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/ray-batch-runner/taxi-v1"),
        ("win32", {}, "{home}/AppData/Local/ray-batch-runner/taxi-v1"),
        ("linux", {"RUNNER_CACHE": "/mine", "XDG_CACHE_HOME": "/xdg"}, "/mine/taxi-v1"),
        ("darwin", {"RUNNER_CACHE": "~/mine"}, "{home}/mine/taxi-v1"),
    ],
)
def test_the_folder_follows_the_platform(
    platform: str, variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNNER_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(taxi.folder()) == expected.format(home=tmp_path)


def test_importing_it_imports_nothing_heavy() -> None:
    script = "import runner.sources.taxi, sys; print({'numpy', 'pyarrow', 'fsspec'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
