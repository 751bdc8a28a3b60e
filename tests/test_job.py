"""What a job promises, in every mode: each row once, the same bytes, resume, append, overwrite, clear refusals."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs, in_every_mode

from runner import ConfigError, Interrupted, JobFailed, SinkRefused, run
from runner.driver.opening import survey_of
from runner.modes.actors import Actors
from runner.modes.processes import ProcessPool
from runner.modes.tasks import Tasks
from runner.predictor.shipping import MOMENT_SECONDS, Shipper
from runner.process.signals import Signals
from runner.types import RayOptions, Resources, Setup


def write_input(folder: Path, files: int = 4, rows: int = 25, first: int = 0) -> None:
    """Files of `rows` consecutive numbers each, in the columns `x` and `id`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + files):
        x = list(range(i * rows, (i + 1) * rows))
        table = pa.table({"x": x, "id": [f"row {v}" for v in x]})
        pq.write_table(table, folder / f"{i:03}.parquet", row_group_size=10)


def job(tmp_path: Path, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    """A job over `in/` to `out/`, one shard per file, batches of 10."""
    return {
        "source": "parquet",
        "source.path": str(tmp_path / "in"),
        "model": "custom",
        "model._target_": f"predictors.{loader}",
        "sink.path": str(tmp_path / "out"),
        "batch_size": 10,
        "shard_bytes": None,
        **more,
    }


def parts(tmp_path: Path, out: str = "out") -> list[Path]:
    return sorted(path for path in (tmp_path / out).rglob("part-*") if "_runner" not in path.parts)


def predicted(tmp_path: Path, column: str = "twice") -> list[Any]:
    """All predictions, in the order of the parts' names: the input's order."""
    return [value for part in parts(tmp_path) for value in pq.read_table(part)[column].to_pylist()]


def digests(tmp_path: Path, out: str = "out") -> dict[str, str]:
    return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts(tmp_path, out)}


def manifest(tmp_path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((tmp_path / "out/_runner/manifest.json").read_text())
    return content


def plan_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out/_runner").glob("plan-*"))


# ---------------------------------------------------------------- predictions


@in_every_mode
def test_every_row_is_predicted_once_and_in_order(crew: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = crew(job(tmp_path))
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    assert (report.rows_in, report.rows_out, report.committed, report.status) == (100, 100, 4, "complete")
    assert (tmp_path / "out/_SUCCESS").exists()


def test_the_manifest_accounts_for_every_part(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    content = manifest(tmp_path)
    assert content["rows_in"] == content["rows_out"] == 100
    for entry in content["parts"]:
        data = (tmp_path / "out" / entry["part"]).read_bytes()
        assert entry["checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert entry["bytes"] == len(data)
        assert [Path(each["path"]).exists() for each in entry["input"]] == [True]


def test_the_classic_loader_works_unchanged(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, "classic"))
    assert predicted(tmp_path, "score") == [x % 2 == 0 for x in range(100)]


def test_scalars_vectors_and_strings_are_typed(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, "vectors", **{"predict.input": "numpy", "predict.columns": ["x"]}))
    schema = pq.read_schema(parts(tmp_path)[0])
    assert schema == pa.schema([("score", pa.float32()), ("vector", pa.list_(pa.int64(), 2)), ("label", pa.string())])
    assert predicted(tmp_path, "vector")[3] == [3, 4]
    assert predicted(tmp_path, "label")[3] == "é3"


@pytest.mark.parametrize("sink", ["parquet", "csv", "jsonl", "arrow"])
def test_every_sink_holds_every_row(executor: Runs, tmp_path: Path, sink: str) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, sink=sink, **{"sink.keep_columns": ["id"]}))
    frames = [_read(part) for part in parts(tmp_path)]
    table = pd.concat(frames)
    assert list(table["twice"]) == [2 * x for x in range(100)]
    assert list(table["id"]) == [f"row {x}" for x in range(100)]


def _read(part: Path) -> pd.DataFrame:
    readers = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".arrow": pd.read_feather}
    return pd.read_json(part, lines=True) if part.suffix == ".jsonl" else readers[part.suffix](part)


def test_kept_columns_go_with_the_predictions(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, **{"sink.keep_columns": "all"}))
    assert pq.read_schema(parts(tmp_path)[0]).names == ["x", "id", "twice"]
    assert predicted(tmp_path, "id") == [f"row {x}" for x in range(100)]


@pytest.mark.parametrize(
    "kind", ["numpy", "matrix", "series", "frame", "torch", "dates", "arrow", "arrow table", "arrow series"]
)
def test_a_predictor_may_fill_the_same_array_for_batch_after_batch(tmp_path: Path, kind: str) -> None:
    write_input(tmp_path / "in")
    run({"mode": "inline", **job(tmp_path, "reusing", **{"model.kind": kind})})
    kept = [np.ravel(value)[0] for value in predicted(tmp_path)]
    assert np.array(kept, "datetime64[s]" if kind == "dates" else float).astype(int).tolist() == list(range(0, 200, 2))


def test_a_function_is_a_model(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = {key: value for key, value in job(tmp_path).items() if not key.startswith("model")}
    executor({**config, "model": lambda batch: batch["x"] * 3, "predict.version": "1"})
    assert predicted(tmp_path, "x") == [3 * x for x in range(100)]


def test_parts_mirror_the_source(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in/dt=1", 1)
    write_input(tmp_path / "in/dt=2/a", 1)
    executor(job(tmp_path, **{"sink.layout": "like_source", "sink.keep_columns": ["dt"]}))
    folders = {str(part.parent.relative_to(tmp_path / "out")) for part in parts(tmp_path)}
    assert folders == {"dt=1", "dt=2/a"}
    assert sorted(predicted(tmp_path, "dt")) == [1] * 25 + [2] * 25


def test_batches_are_counted_from_the_shards_start(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=3, rows=25)
    (tmp_path / "count").mkdir()
    executor(job(tmp_path, "counting", **{"model.folder": str(tmp_path / "count"), "shard_bytes": "1GiB"}))
    calls = len(list((tmp_path / "count").glob("call-*")))
    assert len(parts(tmp_path)) == 1
    assert calls == 8, "75 rows in batches of 10"


def test_a_worker_loads_for_itself_when_told_to(crew: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    (tmp_path / "count").mkdir()
    crew(job(tmp_path, "counting", **{"model.folder": str(tmp_path / "count"), "predict.load_on": "worker"}))
    loads = [path.name.split("-")[1] for path in (tmp_path / "count").glob("load-*")]
    assert len(loads) == len(set(loads)), "a process loaded twice"
    assert predicted(tmp_path) == [2 * x for x in range(200)]


# ---------------------------------------------------------------- the same bytes


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_parts_are_the_same_bytes_in_every_mode(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=6)
    runs: list[dict[str, Any]] = [
        {"mode": "inline"},
        {"mode": "processes", "mode.num_workers": 1},
        {"mode": "processes", "mode.num_workers": 3},
        {"mode": "tasks"},
        {"mode": "tasks", "mode.max_in_flight": 1},
        {"mode": "actors", "num_actors": 1},
        {"mode": "actors", "num_actors": 2},
    ]
    found = []
    for i, how in enumerate(runs):
        run({**job(tmp_path), **how, "sink.path": str(tmp_path / str(i))})
        found.append(digests(tmp_path, str(i)))
    assert len(found[0]) == 6
    assert all(each == found[0] for each in found)


def test_parts_are_the_same_bytes_after_every_stop(crew: Runs, tmp_path: Path) -> None:
    """Fail at one shard after another, resuming each time, and compare with an undisturbed run."""
    write_input(tmp_path / "in", files=4)
    how = {"predict.version": "1"}
    crew({**job(tmp_path, "failing_on", **how), "model.value": -1, "sink.path": str(tmp_path / "calm")})
    for stops in range(4):
        missing = sorted({0, 1, 2, 3} - {int(part.name.split("-")[1]) for part in parts(tmp_path)})
        bad, flag = 25 * missing[-1] + 13, tmp_path / f"fixed-{stops}"
        more = {"model.value": bad, "model.unless": str(flag), "sink.accept": ["model.arguments"]}
        config = job(tmp_path, "failing_on", **how, **more)
        with pytest.raises(JobFailed, match=f"cannot predict {bad}"):
            crew(config)
        assert not (tmp_path / "out/_SUCCESS").exists()
        if len(missing) == 1:
            break
    flag.touch()
    report = crew(config)
    assert report.status == "complete"
    assert [*digests(tmp_path).values()] == [*digests(tmp_path, "calm").values()]


# ---------------------------------------------------------------- resume, append, overwrite


def test_a_complete_job_does_nothing_again(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = digests(tmp_path)
    times = [part.stat().st_mtime_ns for part in parts(tmp_path)]
    report = executor(job(tmp_path))
    assert (report.committed, report.committed_before, report.status) == (0, 4, "complete")
    assert digests(tmp_path) == before
    assert [part.stat().st_mtime_ns for part in parts(tmp_path)] == times


def test_resume_predicts_only_what_is_missing(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = digests(tmp_path)
    gone = parts(tmp_path)[2]
    gone.unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    report = executor(job(tmp_path))
    assert (report.committed, report.committed_before) == (1, 3)
    assert digests(tmp_path) == before


def test_a_part_without_a_receipt_is_read_once(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = manifest(tmp_path)
    for receipts in (tmp_path / "out/_runner/runs").rglob("receipts-*"):
        receipts.unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    executor(job(tmp_path))
    assert manifest(tmp_path) == before


def test_resume_warns_of_files_that_no_plan_covers(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    write_input(tmp_path / "in", files=1, first=4)
    report = executor(job(tmp_path))
    assert report.committed == 0
    assert "1 input file in no recorded plan, NOT predicted" in report.notes[0]
    assert "004.parquet" in report.notes[0]
    assert "sink.save_mode=append" in report.notes[0]


def test_append_adds_a_plan_and_renames_nothing(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = digests(tmp_path)
    write_input(tmp_path / "in", files=2, first=4)
    report = executor(job(tmp_path, **{"sink.save_mode": "append"}))
    assert (report.committed, report.committed_before) == (2, 4)
    assert plan_files(tmp_path) == ["plan-000000.parquet", "plan-000001.parquet"]
    assert before.items() <= digests(tmp_path).items()
    assert predicted(tmp_path) == [2 * x for x in range(150)]
    assert (tmp_path / "out/_SUCCESS").exists()
    assert len(manifest(tmp_path)["parts"]) == 6


def test_append_with_nothing_new_is_a_success(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, **{"sink.save_mode": "append"}))
    report = executor(job(tmp_path, **{"sink.save_mode": "append"}))
    assert (report.status, report.committed, plan_files(tmp_path)) == ("complete", 0, ["plan-000000.parquet"])


def test_append_refuses_files_of_another_schema(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    pq.write_table(pa.table({"x": ["a"], "id": ["b"]}), tmp_path / "in/zzz.parquet")
    with pytest.raises(ConfigError, match="'x' is int64 in the recorded plan, string in the new files"):
        executor(job(tmp_path, **{"sink.save_mode": "append"}))


def test_append_takes_files_whose_values_fit(executor: Runs, tmp_path: Path) -> None:
    """A day without fractions, or with nothing but nulls, is a day like any other."""
    for name, x in [("a", [0.5]), ("b", [1]), ("c", pa.nulls(1))]:
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.table({"x": x, "id": ["i"]}), tmp_path / f"in/{name}.parquet")
        executor(job(tmp_path, **{"sink.save_mode": "append"}))
    assert predicted(tmp_path) == [1.0, 2.0, None]
    assert {str(pq.read_schema(part)) for part in parts(tmp_path)} == {"twice: double"}


def test_a_changed_input_file_is_refused_by_name(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    pq.write_table(pa.table({"x": [1], "id": ["a"]}), tmp_path / "in/002.parquet")
    with pytest.raises(ConfigError, match=r"002\.parquet changed since it was planned"):
        executor(job(tmp_path))


def test_an_input_file_that_is_gone_is_reported(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    (tmp_path / "in/001.parquet").unlink()
    report = executor(job(tmp_path))
    assert "1 planned input file no longer listed" in report.notes[0]
    assert "001.parquet" in report.notes[0]


def test_another_jobs_output_is_refused_field_by_field(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    with pytest.raises(SinkRefused) as refused:
        executor(job(tmp_path, **{"model.factor": 3, "batch_size": 7}))
    text = str(refused.value)
    assert "batch_size" in text
    assert "there: 10   now: 7" in text
    assert "model.arguments factor  there: (not given)   now: 3" in text
    assert "sink.accept=[batch_size,model.arguments]" in text


def test_an_accepted_difference_is_recorded(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")

    def accepted() -> list[dict[str, Any]]:
        content: dict[str, Any] = json.loads((tmp_path / "out/_runner/recipe.json").read_text())
        return list(content["accepted"])

    executor(job(tmp_path))
    executor(job(tmp_path, **{"batch_size": 7, "sink.accept": ["batch_size"]}))
    assert accepted() == [], "no row came from the other job, yet its recipe was replaced"
    parts(tmp_path)[0].unlink()
    executor(job(tmp_path, **{"batch_size": 7, "sink.accept": ["batch_size"]}))
    assert accepted() == [{"batch_size": {"was": 10, "now": 7}}]


def test_what_does_not_change_predictions_is_not_in_the_fingerprint(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    others = {"shard_bytes": "1MiB", "errors.max_retries": 1, "resources.num_cpus": 2, "predict.num_threads": 1}
    assert executor(job(tmp_path, **others)).status == "complete"


def test_a_changed_artifact_is_another_model(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    weights = tmp_path / "weights"
    weights.write_text("1")
    executor(job(tmp_path, **{"predict.artifacts": [str(weights)]}))
    weights.write_text("2")
    with pytest.raises(SinkRefused, match=f"artifact {weights}"):
        executor(job(tmp_path, **{"predict.artifacts": [str(weights)]}))


def test_overwrite_replaces_another_jobs_output(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    before = {part.name for part in parts(tmp_path)}
    (tmp_path / "out/.hidden").write_text("not ours")
    executor(job(tmp_path, **{"model.factor": 3, "sink.save_mode": "overwrite"}))
    assert predicted(tmp_path) == [3 * x for x in range(100)]
    assert not before & {part.name for part in parts(tmp_path)}
    assert (tmp_path / "out/.hidden").exists()
    assert len(list((tmp_path / "out/_runner/runs").glob("*/report.json"))) == 1


def test_overwrite_resumes_an_incomplete_output_of_the_same_job(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path))
    parts(tmp_path)[0].unlink()
    (tmp_path / "out/_SUCCESS").unlink()
    assert executor(job(tmp_path, **{"sink.save_mode": "overwrite"})).committed == 1
    assert executor(job(tmp_path, **{"sink.save_mode": "overwrite"})).committed == 4


def test_error_refuses_a_sink_that_is_not_empty(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, **{"sink.save_mode": "error"}))
    with pytest.raises(SinkRefused, match=r"sink.save_mode=error"):
        executor(job(tmp_path, **{"sink.save_mode": "error"}))


@pytest.mark.parametrize("save_mode", ["resume", "append", "overwrite"])
def test_files_that_are_not_ours_are_refused_and_left(executor: Runs, tmp_path: Path, save_mode: str) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.doc").write_text("precious")
    with pytest.raises(SinkRefused, match=r"thesis\.doc"):
        executor(job(tmp_path, **{"sink.save_mode": save_mode}))
    assert (tmp_path / "out/thesis.doc").read_text() == "precious"


# ---------------------------------------------------------------- empty input


def empty_files(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pq.write_table(
            pa.table({"x": pa.array([], pa.int64()), "id": pa.array([], pa.string())}), folder / f"{i:03}.parquet"
        )


def test_empty_files_among_others_give_empty_parts(executor: Runs, tmp_path: Path) -> None:
    empty_files(tmp_path / "in", 2)
    write_input(tmp_path / "in", files=1, first=2)
    report = executor(job(tmp_path))
    assert (report.rows_out, len(parts(tmp_path))) == (25, 3)
    assert {str(pq.read_schema(part)) for part in parts(tmp_path)} == {"twice: int64"}


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_but_empty_files_is_a_success(executor: Runs, tmp_path: Path, count: int) -> None:
    empty_files(tmp_path / "in", count)
    report = executor(job(tmp_path))
    assert (report.status, report.rows_out, len(parts(tmp_path))) == ("complete", 0, count)
    write_input(tmp_path / "in", files=1, first=2)
    assert executor(job(tmp_path, **{"sink.save_mode": "append"})).rows_out == 25


def test_no_file_is_an_error_unless_allowed(executor: Runs, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="no files match"):
        executor(job(tmp_path))
    report = executor(job(tmp_path, **{"source.allow_empty": True}))
    assert report.status == "complete"
    assert (tmp_path / "out/_SUCCESS").exists()


# ---------------------------------------------------------------- models that misbehave


def test_a_bad_row_fails_the_job_and_is_named(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"002\.parquet row 13: ArithmeticError: cannot predict 63"):
        executor(job(tmp_path, "failing_on", **{"model.value": 63}))


def test_a_bad_row_is_named_by_its_number_before_filters(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"002\.parquet row 13: "):
        executor(job(tmp_path, "failing_on", **{"model.value": 63, "source.filters": [["x", ">", 55]]}))


def test_a_loader_that_raises_fails_the_job(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for where in ("driver", "worker"):
        with pytest.raises(JobFailed, match="no weights here"):
            executor(job(tmp_path, "raising", **{"predict.load_on": where}))
    assert not parts(tmp_path)


@pytest.mark.parametrize(
    ("loader", "told"),
    [
        ("short", "returned 9 predictions for a batch of 10 rows"),
        ("scalar", "returned str; expected a DataFrame"),
        ("nothing", "'prediction' are all null in the first batch"),
    ],
)
def test_predictions_that_cannot_be_are_refused(executor: Runs, tmp_path: Path, loader: str, told: str) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=told):
        executor(job(tmp_path, loader))


def test_a_prediction_that_the_fixed_type_cannot_hold_is_named(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"row \d+: prediction 'y' is fixed as int64.*predict\.output_schema"):
        executor(job(tmp_path, "widening"))
    executor(job(tmp_path, "widening", **{"predict.output_schema": {"y": "double"}}))
    assert predicted(tmp_path, "y")[:12] == [*map(float, range(11)), 11.5]


@pytest.mark.usefixtures("ray_session")
def test_a_value_that_the_sink_cannot_hold_fails_the_job(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"part-.* cannot be written: .*timestamp"):
        executor(job(tmp_path, "far_future"))


@pytest.mark.slow
def test_a_predictor_that_cannot_be_pickled_says_what_to_do(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for mode in ("processes", "tasks", "actors"):
        with pytest.raises(ConfigError, match=r"cannot pickle '_thread.lock' object\); take predict\.load_on=worker"):
            run(job(tmp_path, "unpicklable", mode=mode))
        run(job(tmp_path, "unpicklable", mode=mode, **{"predict.load_on": "worker", "sink.path": str(tmp_path / mode)}))


def test_a_kept_column_of_a_predictions_name_is_refused(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = {key: value for key, value in job(tmp_path).items() if not key.startswith("model")}
    with pytest.raises(ConfigError, match=r"sink.keep_columns: x is also the name of a prediction"):
        executor({**config, "model": lambda batch: batch["x"], "sink.keep_columns": ["x"]})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=6)
    for mode in ("processes", "tasks", "actors"):
        how = {
            "model.flag": str(tmp_path / f"died-{mode}"),
            "model.value": 70,
            "predict.output_schema": {"twice": "int64"},
        }
        report = run(job(tmp_path, "dying_once", mode=mode, **how, **{"sink.path": str(tmp_path / mode)}))
        assert report.lost_workers == 1
        assert report.rows_out == 150


# ---------------------------------------------------------------- sinks that cannot be written


def test_a_sink_that_cannot_be_written_is_named(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkRefused, match=r"sink.path=.*file/out: cannot be used: NotADirectoryError"):
        executor(job(tmp_path, **{"sink.path": str(tmp_path / "file/out")}))


def test_records_under_which_nothing_was_committed_make_way(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(JobFailed):
        executor(job(tmp_path, "failing_on", **{"model.value": 3, "predict.output_schema": {"twice": "int64"}}))
    executor(job(tmp_path))
    assert predicted(tmp_path) == [2 * x for x in range(25)]


# ---------------------------------------------------------------- at 3 a.m.


def test_a_sink_of_other_files_is_no_sink_to_resume(executor: Runs, tmp_path: Path) -> None:
    """A preset that forgot the day in its sink's path would be green every night."""
    write_input(tmp_path / "in/dt=1")
    write_input(tmp_path / "in/dt=2")
    executor(job(tmp_path, **{"source.path": str(tmp_path / "in/dt=1")}))
    with pytest.raises(SinkRefused, match="holds the predictions of other files"):
        executor(job(tmp_path, **{"source.path": str(tmp_path / "in/dt=2")}))


@pytest.mark.parametrize("record", ["recipe.json", "plan-000000.parquet"])
def test_a_damaged_record_is_named(tmp_path: Path, record: str) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    (tmp_path / "out/_runner" / record).write_text("{")
    with pytest.raises(SinkRefused, match=f"{record} cannot be read"):
        run(job(tmp_path, mode="inline"))


def test_a_damaged_receipt_is_as_none(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    before = manifest(tmp_path)
    [receipts] = (tmp_path / "out/_runner/runs").rglob("receipts-*")
    receipts.write_text(receipts.read_text()[:-20])
    (tmp_path / "out/_SUCCESS").unlink()
    run(job(tmp_path, mode="inline"))
    assert manifest(tmp_path) == before


def test_a_loader_that_returns_no_function_is_to_blame(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for where in ("driver", "worker"):
        with pytest.raises(JobFailed, match="the loader returned None; expected a function of a batch"):
            executor(job(tmp_path, "returning_none", **{"predict.load_on": where}))


def test_the_first_batch_follows_the_policy_too(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=3)
    with pytest.raises(JobFailed, match="cannot predict 3") as failed:
        executor(job(tmp_path, "failing_on", **{"model.value": 3, "errors.stop_after_failed_shards": 5}))
    assert len(parts(tmp_path)) == 2, "the other shards did not go on"
    assert failed.value.report.remaining == 1


def test_a_first_batch_that_ends_the_job_tells_what_remains(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=3)
    with pytest.raises(JobFailed) as failed:
        executor(job(tmp_path, "failing_on", **{"model.value": 3}))
    assert (failed.value.report.remaining, failed.value.report.shards) == (3, 3)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for key, value in (("resources.num_gpus", 1), ("resources.num_cpus", 500)):
        with pytest.raises(ConfigError, match=f"ask for less: {key}"):
            run(job(tmp_path, mode="tasks", **{key: value}))


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_input(tmp_path / "in")
    command = [
        sys.executable,
        "-m",
        "runner",
        "ray.address=127.0.0.1:1",
        "sink.path=out",
        "source=parquet",
        "source.path=in",
    ]
    given = ["predict.columns=[x]", "model=custom", "model._target_=models.taxi.load"]
    done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 75
    assert "ray.address=127.0.0.1:1: nothing answers there" in done.stderr


def test_a_short_run_is_told_that_it_needs_no_ray() -> None:
    from runner.report.report import Report
    from runner.report.summary import summary

    def note(**more: Any) -> bool:
        lines = summary(Report("run", "out", committed=1, **more))
        return any("mode=processes does the same without Ray" in line for line in lines)

    assert note(ray_seconds=4.0, predicting_seconds=1.0)
    assert not note(ray_seconds=4.0, predicting_seconds=60.0)
    assert not note(ray_seconds=0.0, predicting_seconds=1.0)


# ---------------------------------------------------------------- while workers start


def test_workers_start_while_the_input_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    started, start, look = threading.Event(), ProcessPool.__init__, survey_of

    def begin(*arguments: Any) -> None:
        start(*arguments)
        started.set()

    def once_started(*arguments: Any) -> Any:
        assert started.wait(60)
        return look(*arguments)

    monkeypatch.setattr(ProcessPool, "__init__", begin)
    monkeypatch.setattr("runner.job.survey_of", once_started)
    assert run({**job(tmp_path), "mode": "processes"}).rows_out == 100


@pytest.mark.parametrize("mode", [Tasks(), Actors()])
def test_no_ray_is_started_for_an_input_that_is_known_to_be_wrong(
    mode: Tasks | Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(_: float | None) -> None:
        raise ConfigError("source.path=in/: no such column")

    monkeypatch.setattr("runner.modes.session.connect", lambda *_: pytest.fail("Ray was started"))
    setup = Setup(Resources(), RayOptions(), 1, None, print, Signals())
    with pytest.raises(ConfigError, match="no such column"):
        mode.open(Shipper(lambda: abs, on_driver=True, needed=wrong), setup)


def test_sigterm_while_ray_starts_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    monkeypatch.setattr("runner.modes.session.connect", lambda *_: sys.exit(15))  # as Ray's handler does
    with pytest.raises(Interrupted) as interrupted:
        run({**job(tmp_path), "mode": "tasks"})
    assert interrupted.value.exit_code == 143


@pytest.mark.parametrize("load_on", ["driver", "worker"])
@pytest.mark.parametrize("nothing", [{"source.allow_empty": True}, {"errors.skip_files": ["*.parquet"]}])
def test_where_there_is_nothing_to_do_no_model_is_needed(
    executor: Runs, tmp_path: Path, nothing: dict[str, Any], load_on: str
) -> None:
    write_input(tmp_path / "in", files=0 if "source.allow_empty" in nothing else 2)
    for _ in range(2):
        report = executor(job(tmp_path, "raising", **nothing, **{"predict.load_on": load_on}))
        assert (report.status, report.rows_out, report.workers) == ("complete", 0, 0)
        assert (tmp_path / "out/_SUCCESS").exists()


def test_a_model_that_is_not_needed_is_not_loaded_while_a_listing_takes_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    look = survey_of

    def slowly(*arguments: Any) -> Any:
        time.sleep(2 * MOMENT_SECONDS)
        return look(*arguments)

    monkeypatch.setattr("runner.job.survey_of", slowly)
    nothing = {"source.allow_empty": True, "predict.load_on": "worker", "mode": "processes"}
    assert run(job(tmp_path, "raising", **nothing)).status == "complete"


def test_a_loader_that_would_end_the_process_fails_the_job(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match=r"the loader called sys\.exit\(0\)"):
        executor(job(tmp_path, "exiting"))


def test_a_wrong_input_is_told_before_a_wrong_model(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(ConfigError, match="absent"):
        executor(job(tmp_path, "raising", **{"predict.columns": ["absent"]}))


def test_a_model_that_asks_for_arrays_pays_for_no_pandas(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    paths = {"source.path": str(tmp_path / "in"), "sink.path": str(tmp_path / "out")}
    config = {"mode": "inline", **paths, "predict.input": "numpy", "predict.columns": ["x"]}
    code = (
        f"import sys; from runner import run; run({config!r}, model=lambda batch: {{'even': batch['x'] % 2 == 0, "
        "'both': batch['x'][:, None].repeat(2, 1)}); sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    assert predicted(tmp_path, "even") == [True, False] * 50
    assert predicted(tmp_path, "both") == [[x, x] for x in range(100)]
