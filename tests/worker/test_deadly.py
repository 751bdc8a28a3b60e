"""Rows that take their process down are found like any other bad row, in a process of their own."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import predictors
import pyarrow as pa
import pytest
from conftest import Runs
from test_job import digests, job, predicted, write_input
from test_quarantine import quarantined

from runner import JobFailed, run
from runner.arrow.isolate import Failed, Good, Tried
from runner.predictor.child import Child, ProcessDied
from runner.report.summary import summary
from runner.worker.sifting import sift


def deadly(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return job(tmp_path, "deadly", **{"model.value": 37, "model.how": "exit", **more})


@pytest.mark.slow
@pytest.mark.parametrize(("how", "told"), [("exit", "left with exit code 13"), ("segfault", "died of signal SIGSEGV")])
def test_a_deadly_row_is_quarantined_and_the_others_are_kept(remote: str, tmp_path: Path, how: str, told: str) -> None:
    write_input(tmp_path / "in")
    report = run(deadly(tmp_path, mode=remote, errors="quarantine", **{"model.how": how, "errors.max_bad_rows": 1}))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x != 37]
    [row] = quarantined(tmp_path).to_pylist()
    assert (row["x"], row["_row"], row["_error_type"]) == (37, 12, "ProcessDied")
    assert told in row["_error"]
    assert report.lost_workers == 2, "two workers, then a child"


@pytest.mark.slow
def test_a_deadly_row_in_the_very_first_batch(remote: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(deadly(tmp_path, mode=remote, errors="quarantine", **{"model.value": 3, "errors.max_bad_rows": 1}))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x != 3]


@pytest.mark.parametrize(("deaths", "blamed"), [(1, []), (2, []), (3, [5]), (99, [5])])
@pytest.mark.parametrize("rows", [1, 8])
def test_a_row_is_only_to_blame_if_its_process_dies_again(deaths: int, blamed: list[int], rows: int) -> None:
    """A child that somebody else killed, say the kernel for another's memory, has no guilty row."""
    batch = pa.table({"x": [5] if rows == 1 else range(rows)})
    alone: list[int] = []

    def attempt(some: pa.Table) -> list[Tried]:
        if 5 in some["x"].to_pylist():
            alone.extend([5] * (some.num_rows == 1))
            if some.num_rows > 1 or len(alone) <= deaths:
                return [Failed(0, some.num_rows, ProcessDied("killed"))]
        return [Good(0, some.num_rows, some)]

    sifted = sift(batch, attempt, lambda _: None, str)
    assert [batch["x"][each.row].as_py() for each in sifted.bad] == blamed
    assert sifted.batch.num_rows == rows - len(blamed)


@pytest.mark.slow
def test_strict_names_the_deadly_row(remote: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(
        JobFailed, match=r"001\.parquet row 12: ProcessDied: the predictor's process left with exit code 13"
    ):
        run(deadly(tmp_path, mode=remote))


@pytest.mark.slow
def test_a_model_that_only_a_worker_can_load_is_loaded_in_the_child(remote: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    how = {"predict.load_on": "worker", "errors.max_bad_rows": 1}
    run(deadly(tmp_path, mode=remote, errors="quarantine", **how))
    assert quarantined(tmp_path).num_rows == 1


def test_a_batch_that_takes_too_much_memory_is_halved(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, "doubling", **{"sink.path": str(tmp_path / "calm")}))
    executor(job(tmp_path, "hungry", **{"model.rows": 3}))
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    assert [*digests(tmp_path).values()] == [*digests(tmp_path, "calm").values()], "the pieces show in the bytes"


def calls(folder: Path, how: str) -> list[int]:
    """Rows of each call that ended like that."""
    return [int(file.name.split("-")[1]) for file in folder.glob(f"{how}-*")]


@pytest.mark.slow
def test_the_smaller_size_is_kept(crew: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8, rows=100)
    (tmp_path / "calls").mkdir()
    report = crew(job(tmp_path, "hungry", **{"model.rows": 3, "model.folder": str(tmp_path / "calls")}))
    assert predicted(tmp_path) == [2 * x for x in range(800)]
    assert 0 < report.vitals.halved <= len(calls(tmp_path / "calls", "refused"))
    assert any("for want of memory" in line for line in summary(report))
    assert set(calls(tmp_path / "calls", "refused")) == {10, 5}
    assert len(calls(tmp_path / "calls", "refused")) <= 2 * 4, "twice in each process, and not in each of 80 batches"


def test_a_row_that_alone_takes_too_much_does_not_make_the_others_small(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=4, rows=100)
    (tmp_path / "calls").mkdir()
    model = {"model.rows": 10, "model.value": 37, "model.folder": str(tmp_path / "calls")}
    executor(job(tmp_path, "hungry", errors="quarantine", **{"errors.max_bad_rows": 1, **model}))
    assert predicted(tmp_path) == [2 * x for x in range(400) if x != 37]
    assert calls(tmp_path / "calls", "predicted").count(10) >= 39


def test_a_row_that_alone_takes_too_much_memory_is_a_bad_row(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match="MemoryError"):
        executor(job(tmp_path, "hungry", **{"model.rows": 0}))


def test_a_child_is_replaced_and_leaves_nothing() -> None:
    import pandas as pd

    child = Child(pickle.dumps((True, predictors.counting_children)))
    [[first]] = child([pd.DataFrame({"x": [1]})])
    with pytest.raises(ProcessDied, match="exit code 7"):
        child([pd.DataFrame({"x": [-1]})])
    raised, [same] = child([pd.DataFrame({"x": [0]}), pd.DataFrame({"x": [1]})])
    assert "zero" in str(raised.error)
    [[second]] = child([pd.DataFrame({"x": [1]})])
    assert same != first, "a new one, which lives on after an error"
    assert second == same
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
