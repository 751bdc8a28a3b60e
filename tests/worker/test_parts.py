"""The optional parts of a predictor: `prepare`, `async`, `concurrency`, `Rejected`; in every mode, and whatever goes wrong."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pytest
from conftest import Runs
from foreign import loaders
from test_cluster import _wait_for_parts, environment
from test_job import digests, job, parts, predicted, write_input
from test_quarantine import quarantined
from test_tuning import tuned

from runner import JobFailed, Rejected, run
from runner.arrow.isolate import Failed, Good, Guilty
from runner.predictor.calling import LocalCaller
from runner.predictor.child import Child
from runner.types import Raised
from runner.worker.predicting import Predicting

REFUSED, RAISING = [3, 4, 17, 40, 99], [12, 77]
QUARANTINE = {"errors": "quarantine", "errors.max_bad_rows": 20}
KINDS = pytest.mark.parametrize("concurrency", [0, 1, 4], ids=["plain", "async", "async 4"])


def parted(tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "calls").mkdir(exist_ok=True)
    given = {"model._target_": "foreign.loaders.load", "model.folder": str(tmp_path / "calls")}
    return job(tmp_path, **{**given, **more})


def calls(tmp_path: Path) -> Counter[tuple[int, ...]]:
    """How often the predictor was given which rows at once."""
    names = (path.name.partition(".")[0].removeprefix("call-") for path in (tmp_path / "calls").iterdir())
    return Counter(tuple(map(int, name.split("-"))) for name in names)


@KINDS
def test_rejected_rows_go_to_quarantine_and_nothing_is_called_twice(
    executor: Runs, tmp_path: Path, concurrency: int
) -> None:
    write_input(tmp_path / "in")
    config = parted(tmp_path, **QUARANTINE, **{"model.refused": REFUSED, "model.concurrency": concurrency})
    report = executor({**config, "sink.keep_columns": ["id"]})
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in REFUSED]
    assert predicted(tmp_path, "id") == [f"row {x}" for x in range(100) if x not in REFUSED]
    assert (report.rows_in, report.rows_out, report.rows_quarantined) == (100, 95, 5)
    rows = quarantined(tmp_path).to_pylist()
    assert [(row["x"], row["_row"]) for row in rows] == [(x, x % 25) for x in REFUSED]
    assert [row["_error_type"] for row in rows] == ["Refused"] * 5
    assert rows[0]["_error"] == "3: not with me"
    assert Counter(row for batch in calls(tmp_path).elements() for row in batch) == Counter(range(100))


@KINDS
def test_the_bytes_are_those_of_a_plain_predictor(executor: Runs, tmp_path: Path, concurrency: int) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, **{"sink.path": str(tmp_path / "plain")}))
    executor(parted(tmp_path, **{"model.concurrency": concurrency}))
    assert [*digests(tmp_path).values()] == [*digests(tmp_path, "plain").values()]


def test_a_piece_that_fails_is_bisected_alone(executor: Runs, tmp_path: Path) -> None:
    """12 lies in the piece 12, 13, 14 of the batch from 10, cut in 4; 77 in 77, 78, 79 of a batch of 10 that begins at 70."""
    write_input(tmp_path / "in", files=2, rows=50)
    rows = {"model.raising": RAISING, "model.refused": REFUSED, "model.concurrency": 4}
    report = executor(parted(tmp_path, **QUARANTINE, **rows, **{"predict.load_on": "worker"}))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in {*RAISING, *REFUSED}]
    assert report.rows_quarantined == 7
    seen = calls(tmp_path)
    assert max(seen.values()) == 1, "the same rows are never given twice"
    again = {row for row, times in Counter(row for batch in seen for row in batch).items() if times > 1}
    assert again == {12, 13, 14, 77, 78, 79}


@KINDS
def test_strict_names_the_first_rejected_row(executor: Runs, tmp_path: Path, concurrency: int) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"000\.parquet row 3: Refused: 3: not with me"):
        executor(parted(tmp_path, **{"model.refused": [3, 4], "model.concurrency": concurrency}))
    assert not parts(tmp_path)


def test_the_budget_counts_rejected_rows(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = parted(tmp_path, mode="inline", errors="quarantine", **{"model.refused": [0, 1, 2, 3, 60]})
    with pytest.raises(JobFailed, match=r"4 of 10 rows are bad; errors.max_bad_rows=3 allows 3: .*row 0: Refused"):
        run({**config, "errors.max_bad_rows": 3})
    assert run({**config, "errors.max_bad_rows": 5}).rows_quarantined == 5
    assert run({**config, "errors.max_bad_rows": 5}).committed == 0


def test_a_batch_of_which_every_row_is_rejected(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    more = {**QUARANTINE, "errors.max_bad_rows": 30, "model.refused": [*range(20), 24]}
    report = executor(parted(tmp_path, **more))
    assert predicted(tmp_path) == [2 * x for x in range(20, 50) if x != 24]
    assert report.rows_quarantined == 21
    assert max(calls(tmp_path).values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [0, 4], ids=["plain", "async 4"])
def test_beside_a_deadly_row(tmp_path: Path, concurrency: int) -> None:
    """The child that isolates it has the parts too; an error that cannot be pickled keeps its words."""
    write_input(tmp_path / "in")
    given = {"model.refused": REFUSED, "model.deadly": 37, "model.concurrency": concurrency}
    run(parted(tmp_path, mode="processes", **QUARANTINE, **given))
    assert predicted(tmp_path) == [2 * x for x in range(100) if x not in {*REFUSED, 37}]
    rows = {row["x"]: f"{row['_error_type']}: {row['_error']}" for row in quarantined(tmp_path).to_pylist()}
    assert rows[37].startswith("ProcessDied")
    assert all("not with me" in rows[x] for x in REFUSED)


@pytest.mark.slow
def test_killed_and_continued(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    given = ["source=parquet", f"source.path={tmp_path / 'in'}", "mode=processes", "shard_bytes=null", "batch_size=10"]
    model = ["model=custom", "model._target_=foreign.loaders.slowly", "errors=quarantine", "errors.max_bad_rows=0.5"]
    command = [sys.executable, "-m", "runner", *given, *model, f"sink.path={tmp_path / 'out'}"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _wait_for_parts(tmp_path, 3, running)
    below = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not psutil.wait_procs(below, 30)[1]
    assert not (tmp_path / "out/_SUCCESS").exists()
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert predicted(tmp_path) == [2 * x for x in range(300) if x % 7]
    assert quarantined(tmp_path)["x"].to_pylist() == [x for x in range(300) if x % 7 == 0]


# ---------------------------------------------------------------- prepare


def test_an_error_of_prepare_is_one_of_the_predictor(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pa.parquet.write_table(pa.table({"x": [0, 1, -1, 3]}), tmp_path / "in/0.parquet")
    for concurrency in (0, 2):
        sink = {"sink.path": str(tmp_path / f"strict-{concurrency}"), "model.concurrency": concurrency}
        with pytest.raises(JobFailed, match="row 2: ValueError: cannot be prepared") as failed:
            run(parted(tmp_path, mode="inline", **sink))
        assert "in prepare: raise ValueError" in str(failed.value)
    run(parted(tmp_path, mode="inline", **QUARANTINE))
    assert predicted(tmp_path) == [0, 2, 6]


def prepared(prepare: Any = None, **more: Any) -> Callable[[Any], Any]:
    async def predict(batch: Any) -> Any:
        return batch["x"] * 2

    vars(predict).update(prepare=prepare, **more)
    return predict


async def later(batch: Any) -> Any:
    return batch


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"prepare": later}, "the predictor's `prepare` is async; expected a plain method that takes a batch"),
        ({"prepare": 3}, "the predictor's `prepare` is 3; expected a plain method"),
        ({"concurrency": 0}, "the predictor's `concurrency` is 0; expected a whole number of at least 1"),
        ({"concurrency": "4"}, "`concurrency` is '4'; expected a whole number"),
        ({"concurrency": True}, "`concurrency` is True; expected a whole number"),
    ],
    ids=["async prepare", "number for prepare", "zero", "text", "flag"],
)
def test_wrong_parts_are_refused_when_it_is_loaded(tmp_path: Path, parts: dict[str, Any], told: str) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=told):
        run({"source.path": str(tmp_path / "in"), "sink.path": "out", "mode": "inline"}, model=prepared(**parts))


# ---------------------------------------------------------------- async


def test_an_async_function_is_a_model(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = {"source.path": str(tmp_path / "in"), "sink.path": str(tmp_path / "out"), "predict.columns": ["x"]}
    executor(config, model=prepared(concurrency=3))
    assert predicted(tmp_path, "x") == [2 * x for x in range(100)]


@pytest.mark.slow
def test_beside_a_running_loop(tmp_path: Path) -> None:
    """As in a notebook."""
    write_input(tmp_path / "in")

    more: dict[str, Any] = {"model._target_": "foreign.loaders.load", "model.concurrency": 4}

    async def cell() -> None:
        run(parted(tmp_path, mode="inline", **{"model.concurrency": 4}))
        tuned(tmp_path, **more, **{"sink.path": str(tmp_path / "other")})

    asyncio.run(cell())
    assert predicted(tmp_path) == [2 * x for x in range(100)]


def test_one_loop_serves_all_jobs_of_a_process_and_ends_with_it(tmp_path: Path) -> None:
    """Nothing is left to complain about: neither the task that the model has started, nor the loop."""
    write_input(tmp_path / "in", files=1)
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio\nfrom runner import run\nloops, tasks = set(), []\n"
        "async def predict(batch):\n"
        "    loops.add(asyncio.get_running_loop())\n"
        "    tasks.append(asyncio.create_task(asyncio.sleep(600)))\n"
        "    return batch['x']\n"
        "for i in range(2):\n"
        f"    run({{'source.path': {str(tmp_path / 'in')!r}, 'sink.path': f'out-{{i}}', 'mode': 'inline'}}, model=predict)\n"
        "assert len(loops) == 1 and not tasks[0].done()\n"
    )
    options = ["-X", "dev", "-W", "error::ResourceWarning"]
    done = subprocess.run(
        [sys.executable, *options, script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "destroyed" in line or "Warning" in line]


def leaving(_: Any) -> Any:
    sys.exit(3)


async def leaving_later(batch: Any) -> Any:
    if 1 in batch["x"].tolist():
        sys.exit(3)
    return batch["x"]


async def given_up(batch: Any) -> Any:  # noqa: ARG001
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("predictor", "told"),
    [
        (leaving, "the predictor called sys.exit(3)"),
        (leaving_later, "the predictor called sys.exit(3)"),
        (given_up, "the predictor raised CancelledError"),
    ],
    ids=["plain", "async", "cancelled"],
)
def test_what_would_end_the_process_is_an_error(predictor: Any, told: str) -> None:
    [outcome] = LocalCaller(predictor)([{"x": pd.Series([1])}])
    assert isinstance(outcome, Raised)
    assert told in str(outcome.error)
    assert LocalCaller(leaving_later)([{"x": pd.Series([0])}])[0].tolist() == [0], "the loop goes on"


def test_a_coroutine_that_nobody_awaits_is_told() -> None:
    [failed] = tried(later(None))
    assert "returned a coroutine; make its `__call__` an `async def`" in str(failed.error)


def hungry(rows: int) -> Any:
    async def predict(batch: pd.DataFrame) -> Any:
        given.append(len(batch))
        if len(batch) > rows:
            raise MemoryError
        return batch["x"]

    given = list[int]()
    vars(predict).update(concurrency=2, given=given)
    return predict


def test_pieces_that_take_too_much_memory_are_halved() -> None:
    predicting = Predicting(LocalCaller(hungry(3)), ["x"], "pandas", None)
    batch = pa.table({"x": range(20)})
    assert predicting(batch)["x"].to_pylist() == [*range(20)]
    assert predicting.limit.rows <= 5


def test_a_child_knows_how_many_at_once() -> None:
    child = Child(pickle.dumps((True, loaders.load)))
    other = Child(pickle.dumps((False, loaders.Awaited("", [], [], -2, 4))))
    try:
        assert (child.concurrency, other.concurrency) == (1, 4)
        [first, second] = other([pd.DataFrame({"x": [1]}), pd.DataFrame({"x": [-1]})])
        assert first == {"twice": [2]}
        assert "cannot be prepared" in str(second.error)
    finally:
        child.close()
        other.close()


# ---------------------------------------------------------------- Rejected


def tried(answer: Any, rows: int = 3, schema: pa.Schema | None = None) -> list[Any]:
    predicting = Predicting(LocalCaller(lambda _: answer), ["x"], "pandas", schema)
    return list(predicting.attempt(pa.table({"x": range(rows)})))


NO = ValueError("no")


@pytest.mark.parametrize(
    "values",
    [
        [1.5, None, 2.5],
        [1.5, "not looked at", 2.5],
        {"prediction": [1.5, object(), 2.5]},
        pd.Series([1.5, float("nan"), 2.5], name="prediction"),
        pd.DataFrame({"prediction": [1.5, None, 2.5]}),
        pa.table({"prediction": [1.5, None, 2.5]}),
    ],
    ids=["list", "mixed", "dict", "series", "frame", "arrow"],
)
def test_what_stands_at_a_rejected_row_is_not_looked_at(values: Any) -> None:
    schema = pa.schema([("prediction", pa.float64())])
    good, guilty = tried(Rejected(values, {1: NO}), schema=schema)
    assert isinstance(good, Good)
    assert good.result["prediction"].to_pylist() == [1.5, 2.5]  # type: ignore[index]
    assert guilty == Guilty(1, NO)


def test_predictions_in_another_order_are_put_in_the_batchs() -> None:
    [good, guilty] = tried(Rejected(pd.Series([30, 10, 20], index=[2, 0, 1], name="p"), {0: NO}))
    assert good.result["p"].to_pylist() == [20, 30]
    assert guilty.row == 0


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Rejected([1, 2, 3], {3: NO}), "names the row 3; expected the numbers of rows within the batch, from 0 to 2"),
        (Rejected([1, 2, 3], {-1: NO}), "names the row -1; expected"),
        (Rejected([1, 2, 3], {"a": NO}), "names the row 'a'; expected"),  # type: ignore[dict-item]
        (Rejected([1, 2, 3], {1: "no"}), "holds 'no' for row 1; expected an exception"),  # type: ignore[dict-item]
        (Rejected([1, 2, 3], {1: ValueError}), "holds <class 'ValueError'> for row 1; expected an exception"),  # type: ignore[dict-item]
        (Rejected([1, 2, 3], [NO]), r"Rejected.errors is \[ValueError\('no'\)\]; expected a mapping"),  # type: ignore[arg-type]
        (Rejected([1, 3], {1: NO}), "returned 2 predictions for a batch of 3 rows; .* also for the rows that are rejected"),
        (Rejected("many", {1: NO}), "returned str; expected .* also for the rows that are rejected"),
    ],
    ids=["beyond", "negative", "text", "no exception", "a class", "no mapping", "too few", "no predictions"],
)  # fmt: skip
def test_a_wrong_rejection_is_the_models_fault(tmp_path: Path, answer: Any, told: str) -> None:
    [failed] = tried(answer)
    assert isinstance(failed, Failed)
    write_input(tmp_path / "in", files=1, rows=3)
    with pytest.raises(JobFailed, match=told):
        run({**QUARANTINE, "source.path": str(tmp_path / "in"), "sink.path": "out", "mode": "inline"},
            model=lambda batch: answer if len(batch) == 3 else batch["x"])  # fmt: skip


def test_any_whole_number_names_a_row() -> None:
    import numpy as np

    errors: dict[Any, Exception] = {np.int64(2): NO, 0: NO}
    assert [each.row for each in tried(Rejected([1, 2, 3], errors))[1:]] == [0, 2]


def test_an_error_that_the_model_gives_is_taken_at_its_word(tmp_path: Path) -> None:
    """A row that is rejected for a timeout goes to quarantine: who wants the batch tried again raises."""
    write_input(tmp_path / "in", files=1)
    done = run(
        {**QUARANTINE, "source.path": str(tmp_path / "in"), "sink.path": "out", "mode": "inline"},
        model=lambda batch: Rejected(batch["x"], {0: TimeoutError("gave up")}),
    )
    assert (done.rows_quarantined, done.retries) == (1, 0)
    assert os.listdir("out/_runner/quarantine")  # noqa: PTH208
