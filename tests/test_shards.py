"""Shards that are pieces of a file: the same rows in the same order as without pieces, whatever is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode
from pyarrow import feather, orc
from test_cluster import _wait_for_parts
from test_job import digests, job, parts, predicted
from test_kill import command, finished, kill_driver, start
from test_quarantine import quarantined

from runner import ConfigError, JobFailed, run
from runner.__main__ import main

ROWS = 300
BAD = (0, 57, 140, 299)  # rows that the model cannot predict
UNREADABLE = (30, 199)


def write(folder: Path, kind: str) -> None:
    """One file of 300 rows; two of CSV and of JSON lines cannot be parsed, and are counted too."""
    folder.mkdir(exist_ok=True)
    good = {i: f'{i},"row\n {i}"' for i in range(ROWS)} if kind == "csv" else {}
    good = {i: f'{{"x": {i}, "id": "{i}"}}' for i in range(ROWS)} if kind == "jsonl" else good
    if good:
        lines = ["x,id"] * (kind == "csv") + [good[i] if i not in UNREADABLE else "oops{" for i in range(ROWS)]
        (folder / f"a.{kind}").write_text("\n".join(lines) + "\n")
    else:
        pq.write_table(pa.table({"x": range(ROWS), "id": map(str, range(ROWS))}), folder / "a.parquet")


def in_pieces(tmp_path: Path, kind: str, **more: Any) -> dict[str, Any]:
    bad = {"errors": "quarantine", "errors.max_bad_rows": 100, "model.values": list(BAD)}
    return job(tmp_path, "poisoned", source=kind, **{"shard_bytes": "auto", "predict.columns": ["x"], **bad, **more})


@in_every_mode
def test_pieces_of_a_file_are_predicted_and_put_aside_as_the_whole_is(crew: Runs, tmp_path: Path) -> None:
    for kind in ("csv", "jsonl", "parquet"):
        here = tmp_path / kind
        here.mkdir()
        write(here / "in", kind)
        report = crew(in_pieces(here, kind, shard_rows=40))
        aside = quarantined(here).to_pylist()
        unreadable = () if kind == "parquet" else UNREADABLE
        assert [row["_row"] for row in aside] == sorted([*BAD, *unreadable])
        assert [row["x"] for row in aside if row["x"] is not None] == list(BAD)
        assert predicted(here) == [2 * x for x in range(ROWS) if x not in (*BAD, *unreadable)]
        assert len(parts(here)) >= 7
        assert (report.rows_in, report.rows_quarantined) == (ROWS, len(aside))
        run({**in_pieces(here, kind, shard_bytes=None), "mode": "inline", "sink.path": str(here / "whole")})
        whole = [
            row
            for part in sorted((here / "whole/_runner/quarantine").glob("*"))
            for row in pq.read_table(part).to_pylist()
        ]
        assert whole == aside, "rows, numbers, texts and messages with their lines"


def test_a_small_input_is_shared_by_many_workers(tmp_path: Path) -> None:
    write(tmp_path / "in", "parquet")
    run({**job(tmp_path), "shard_bytes": "auto", "mode": "inline"})
    assert len(parts(tmp_path)) == 16
    assert predicted(tmp_path) == [2 * x for x in range(ROWS)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_plan_is_followed_whatever_the_size_of_a_shard_is_now(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "in", kind)
    first = in_pieces(tmp_path, kind, mode="inline", shard_rows=40)
    run(first)
    before = digests(tmp_path)
    sorted(tmp_path.glob("out/part-*"))[3].unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    report = run({**first, "shard_rows": 7, "shard_bytes": "1KiB"})
    assert digests(tmp_path) == before
    assert report.rows_in < ROWS, "only what was missing"


def test_a_run_without_pieces_is_resumed_without_pieces(tmp_path: Path) -> None:
    write(tmp_path / "in", "csv")
    whole = in_pieces(tmp_path, "csv", mode="inline", shard_bytes=None)
    run(whole)
    before = digests(tmp_path)
    (tmp_path / "out" / next(iter(before))).unlink()
    run({**whole, "shard_bytes": "auto"})
    assert digests(tmp_path) == before
    assert len(before) == 1


@pytest.mark.slow
def test_a_killed_run_over_pieces_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("x,id\n" + "".join(f'{i},"a\n{i}"\n' for i in range(ROWS)))
    more = ["source=csv", "shard_bytes=null", "shard_rows=10"]
    running = start(tmp_path, "processes", *more)
    _wait_for_parts(tmp_path, 4, running)
    kill_driver(running)
    finished(start(tmp_path, "processes", *more))
    assert predicted(tmp_path) == [2 * x for x in range(ROWS)]
    assert len(parts(tmp_path)) >= 30
    assert main([*command(tmp_path, "inline", *more)[3:], "action=verify", "verify.deep=true"]) == 0


# ---------------------------------------------------------------- types that drift


def write_days(folder: Path, kind: str, second: list[Any]) -> None:
    """Whole numbers yesterday, other values today."""
    folder.mkdir()
    writers: dict[str, Callable[[pa.Table, Path], object]] = {
        "parquet": pq.write_table,
        "arrow": feather.write_feather,
        "orc": lambda table, path: orc.write_table(table, str(path)),
    }
    for day, values in (("1", [1, 2, 3]), ("2", second)):
        writers[kind](pa.table({"x": values}), folder / f"{day}.{kind}")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_a_type_that_differs_between_files_is_cast(kind: str, tmp_path: Path) -> None:
    write_days(tmp_path / "in", kind, [1.0, 2.5, None, 4.0])
    asked = job(tmp_path, source=kind, mode="inline")
    with pytest.raises(ConfigError, match=r"'x' is int64 in .*, double in .*source\.column_types=\{x: double\} casts"):
        run(asked)
    run({**asked, "source.column_types": {"x": "double"}})
    assert predicted(tmp_path) == [2, 4, 6, 2, 5, None, 8]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc"])
def test_a_value_that_a_type_cannot_hold_is_one_bad_row(kind: str, tmp_path: Path) -> None:
    write_days(tmp_path / "in", kind, [1.0, 2.5, None, 4.0])
    asked = job(tmp_path, source=kind, mode="inline", **{"source.column_types": {"x": "int64"}})
    with pytest.raises(
        JobFailed, match=rf"2\.{kind} cannot be read: .*row 1: column 'x': 2\.5 \(double\) does not fit int64"
    ):
        run(asked)
    run({**asked, "errors": "quarantine", "errors.max_bad_rows": 1, "sink.path": str(tmp_path / "aside")})
    aside = pq.read_table(next((tmp_path / "aside/_runner/quarantine").glob("*"))).to_pylist()
    assert [(row["_row"], row["_raw"]) for row in aside] == [(1, '{"x": 2.5}')]
    found = [value for part in parts(tmp_path, "aside") for value in pq.read_table(part)["twice"].to_pylist()]
    assert found == [2, 4, 6, 2, None, 8]


def test_a_day_of_another_type_is_appended_with_a_cast(tmp_path: Path) -> None:
    write_days(tmp_path / "in", "parquet", [1.0, 2.0])
    (tmp_path / "in/2.parquet").rename(tmp_path / "later")
    asked = job(tmp_path, mode="inline", **{"sink.save_mode": "append"})
    run(asked)
    (tmp_path / "later").rename(tmp_path / "in/2.parquet")
    with pytest.raises(
        ConfigError, match=r"source\.column_types=\{x: int64\} casts them, with sink\.accept=\[source\.column_types\]"
    ):
        run(asked)
    run({**asked, "source.column_types": {"x": "int64"}, "sink.accept": ["source.column_types"]})
    assert predicted(tmp_path) == [2, 4, 6, 2, 4]
