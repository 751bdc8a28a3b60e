"""In an undisturbed job the predictor is given each row once: what the first batch gave is kept for its shard."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from test_job import digests, job, predicted, write_input

from runner import JobFailed, run
from runner.arrow.isolate import Guilty
from runner.ledger.ledger import OUR_RECORDS, OUR_TEMPORARY
from runner.storage.folder import Folder
from runner.worker.first_batch import Kept, file_name, keep
from runner.worker.sifting import Sifted


def noted(tmp_path: Path, /, bad: Any = None, **more: Any) -> dict[str, Any]:
    """A job whose predictor notes what it is given."""
    (tmp_path / "calls").mkdir(exist_ok=True)
    arguments = {"model.folder": str(tmp_path / "calls"), **({"model.bad": bad} if bad else {})}
    return job(tmp_path, "noting", **arguments, **more)


def batches(tmp_path: Path) -> Counter[tuple[int, ...]]:
    """How often the predictor was given which rows at once."""
    names = (path.name.partition(".")[0].removeprefix("call-") for path in (tmp_path / "calls").iterdir())
    return Counter(tuple(map(int, name.split("-"))) for name in names)


def kept_files(tmp_path: Path) -> list[Path]:
    return [*(tmp_path / "out").rglob("*first-batch*")]


@pytest.mark.parametrize("shard_bytes", [None, 1, "1GiB"])
def test_each_row_is_predicted_once(executor: Runs, tmp_path: Path, shard_bytes: Any) -> None:
    write_input(tmp_path / "in")
    report = executor(noted(tmp_path, shard_bytes=shard_bytes))
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    assert report.rows_in == 100
    rows = Counter(row for batch in batches(tmp_path).elements() for row in batch)
    assert rows == Counter(range(100))
    assert not kept_files(tmp_path)


def test_the_parts_are_those_of_a_declared_schema(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(noted(tmp_path, **{"sink.keep_columns": "all", "sink.path": str(tmp_path / "probed")}))
    declared = {"sink.keep_columns": "all", "predict.output_schema": {"twice": "int64"}}
    executor(noted(tmp_path, **declared))
    assert [*digests(tmp_path).values()] == [*digests(tmp_path, "probed").values()]


def test_bad_rows_of_the_first_batches_are_not_predicted_again(executor: Runs, tmp_path: Path) -> None:
    """Every row of the first batch is bad, and one of the second."""
    write_input(tmp_path / "in")
    bad = [*range(10), 14]
    executor(noted(tmp_path, bad, errors="quarantine", **{"errors.max_bad_rows": 20}))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in bad]
    assert max(batches(tmp_path).values()) == 1, "no rows were given to the predictor twice"
    [file] = (tmp_path / "out/_runner/quarantine").iterdir()
    rows = pq.read_table(file).to_pylist()
    assert [(row["x"], row["_row"], row["_error_type"], row["_error"]) for row in rows] == [
        (x, x, "ArithmeticError", f"cannot predict {x}") for x in bad
    ]


def test_shards_of_nothing_but_bad_rows_are_not_predicted_again(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=3, rows=5)
    bad = list(range(10))
    report = run(noted(tmp_path, bad, mode="inline", errors="quarantine", **{"errors.max_bad_rows": 20}))
    assert (report.rows_out, report.rows_quarantined) == (5, 10)
    assert predicted(tmp_path) == [2 * x for x in range(10, 15)]
    assert max(batches(tmp_path).values()) == 1
    assert not kept_files(tmp_path)


def test_pieces_of_a_first_batch_may_differ_in_type(tmp_path: Path) -> None:
    """A list of whole numbers beside one of fractions, because a bad row lies between them."""
    write_input(tmp_path / "in", files=1)
    more = {"errors": "quarantine", "model.kind": "list", "errors.max_bad_rows": 2}
    run(noted(tmp_path, [2], mode="inline", **more))
    assert predicted(tmp_path, "prediction") == [0.0, 2.5, 7.5, *(2.0 * x for x in range(4, 25))]
    assert max(batches(tmp_path).values()) == 1


def test_the_budget_counts_bad_rows_of_the_first_batch(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(JobFailed, match="3 of 20 rows are bad"):
        run(noted(tmp_path, [1, 2, 11], mode="inline", errors="quarantine", **{"errors.max_bad_rows": 2}))
    assert not kept_files(tmp_path), "a run that fails leaves none behind either"


def test_a_first_shard_that_is_tried_again_takes_what_is_kept(executor: Runs, tmp_path: Path) -> None:
    """Its second batch meets a transient error once: only that batch, the disturbed one, is predicted twice."""
    write_input(tmp_path / "in", files=1)
    more = {"model.trouble_at": 15, "errors.max_retries": 1}
    assert executor(noted(tmp_path, **more)).retries == 1
    given = batches(tmp_path)
    assert sorted(given.values()) == [1, 1, 2]
    assert given[tuple(range(10, 20))] == 2


def test_what_a_killed_run_left_is_deleted_and_not_used(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    folder = tmp_path / "out/_runner/runs/20250101T000000-abcdef"
    folder.mkdir(parents=True)
    for name in ("first-batch-0123456789abcdef.arrow", ".first-batch-0123456789abcdef.arrow.01234567.tmp"):
        (folder / name).write_bytes(b"of another run")
    run(noted(tmp_path, mode="inline"))
    assert not kept_files(tmp_path)
    assert predicted(tmp_path) == [2 * x for x in range(100)]


# ---------------------------------------------------------------- what is kept

SHARD = "0123456789abcdef"
BATCH = pa.table({"x": [1, 2, 3]})


def store_with(tmp_path: Path, **changed: Any) -> Folder:
    store = Folder(str(tmp_path))
    given: Mapping[str, Any] = {"bad": [Guilty(1, KeyError("no"))], "predictions": pa.table({"y": [1, 3]}), **changed}
    sifted = Sifted(BATCH.take([0, 2]), given["predictions"], given["bad"])
    keep(store, "run", SHARD, [(3, sifted)])
    return store


def test_what_was_kept_is_handed_out_once(tmp_path: Path) -> None:
    kept = Kept.read(store_with(tmp_path), "run", SHARD)
    sifted = kept.take(BATCH, lambda table: table)
    assert sifted is not None
    assert (sifted.batch["x"].to_pylist(), sifted.predictions["y"].to_pylist()) == ([1, 3], [1, 3])
    assert [(each.row, type(each.error).__name__, str(each.error)) for each in sifted.bad] == [(1, "KeyError", "'no'")]
    assert kept.take(BATCH, lambda table: table) is None


def test_other_rows_than_were_kept_are_predicted_anew(tmp_path: Path) -> None:
    assert Kept.read(store_with(tmp_path), "run", SHARD).take(BATCH.slice(1), lambda table: table) is None


def test_predictions_that_do_not_fit_are_predicted_anew(tmp_path: Path) -> None:
    def refuse(_: pa.Table) -> pa.Table:
        raise ValueError

    assert Kept.read(store_with(tmp_path), "run", SHARD).take(BATCH, refuse) is None


@pytest.mark.parametrize("content", [None, b"", b"ARROW1", pa.py_buffer(b"\0" * 100).to_pybytes()])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes | None) -> None:
    store = store_with(tmp_path)
    path = tmp_path / file_name("run", SHARD)
    path.unlink() if content is None else path.write_bytes(content)
    assert Kept.read(store, "run", SHARD).take(BATCH, lambda table: table) is None


def test_the_ledger_knows_the_names() -> None:
    folder, name = os.path.split(file_name("20250101T000000-abcdef", SHARD))
    assert OUR_RECORDS.fullmatch(f"{folder}/{name}")
    assert OUR_TEMPORARY.fullmatch(f"{folder}/.{name}.01234567.tmp")
