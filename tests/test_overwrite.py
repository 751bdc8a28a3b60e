"""`sink.save_mode=overwrite`: the old output goes only for a job that has proved that it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Runs
from test_cluster import environment
from test_job import digests, job, parts, predicted, write_input

from runner import Incomplete, RunnerError, run
from runner.__main__ import main
from runner.driver.opening import survey_of
from runner.ledger import ledger as ledger_module
from runner.storage.folder import Folder

OVERWRITE = {"sink.save_mode": "overwrite"}


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a sink but what runs leave for people to read."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in {"report.json", "run.log"})
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A complete output of four parts."""
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    return tmp_path


WRONG: dict[str, dict[str, Any]] = {
    "a kept column that is not there": {"sink.keep_columns": ["idd"]},
    "a column that is not there": {"predict.columns": ["z"]},
    "another path": {"source.path": "nowhere"},
    "a file to skip that is not there": {"errors.skip_files": ["nothing.parquet"]},
    "an empty input": {"source.path": "nowhere", "source.allow_empty": True},
    "a loader that raises": {"model._target_": "predictors.raising"},
    "a predictor that fails": {"model._target_": "predictors.failing_on", "model.value": 3},
    "a predictor that fails, of a declared schema": {
        "model._target_": "predictors.failing_on", "model.value": 3, "predict.output_schema": {"twice": "int64"},
    },
    "predictions of another schema": {"predict.output_schema": {"other": "int64"}},
    "too many CPUs": {"mode": "tasks", "resources.num_cpus": 4096},
    "no cluster": {"mode": "tasks", "ray.address": "127.0.0.1:1"},
}  # fmt: skip


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "no cluster"])
def test_a_mistake_costs_nothing_of_the_old_output(done: Path, wrong: str, request: pytest.FixtureRequest) -> None:
    if wrong == "too many CPUs":
        request.getfixturevalue("ray_session")
    before = contents(done / "out")
    with pytest.raises(RunnerError):
        run(job(done, **{"mode": "inline", "shard_bytes": "1GiB", **OVERWRITE, **WRONG[wrong]}))
    assert contents(done / "out") == before


@pytest.mark.slow
def test_a_cluster_that_cannot_be_reached_costs_nothing_of_the_old_output(done: Path) -> None:
    before = contents(done / "out")
    given = job(done, **OVERWRITE, **WRONG["no cluster"])
    command = [
        sys.executable,
        "-m",
        "runner",
        *(f"{key}={'null' if value is None else value}" for key, value in given.items()),
    ]
    assert subprocess.run(command, cwd=done, env=environment(), capture_output=True, check=False).returncode != 0
    assert contents(done / "out") == before


def test_the_old_output_is_whole_until_the_first_batch_is_predicted(
    executor: Runs, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = digests(done), []
    plain = ledger_module.Ledger.wipe

    def wipe(ledger: ledger_module.Ledger) -> None:
        seen.append(digests(done) == before and (done / "out/_SUCCESS").exists())
        plain(ledger)

    monkeypatch.setattr(ledger_module.Ledger, "wipe", wipe)
    executor(job(done, **{"model.factor": 3, "predict.output_schema": {"twice": "int64"}, **OVERWRITE}))
    assert seen == [True]
    assert predicted(done) == [3 * x for x in range(100)]


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("deletions", [0, 1, 3, 6, 9, 10])
def test_an_overwrite_that_dies_while_it_deletes_is_finished_by_the_same_command(
    done: Path, monkeypatch: pytest.MonkeyPatch, factor: int, deletions: int
) -> None:
    """Also where the input has changed since, so that what is left of the old output could never be resumed."""
    write_input(done / "in", files=1, rows=40)
    again = job(done, mode="inline", **{"model.factor": factor, **OVERWRITE})
    left, plain = [deletions], Folder.delete

    def delete(store: Folder, name: str) -> None:
        if "mark" not in name:
            left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        plain(store, name)

    with monkeypatch.context() as patched:
        patched.setattr(ledger_module, "THREADS", 1)
        patched.setattr(Folder, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            run(again)
    (done / "out/_runner/mark.json").unlink(missing_ok=True)
    assert run(again).status == "complete"
    assert sorted(predicted(done)) == sorted(factor * x for x in [*range(40), *range(25, 100)])
    assert len(parts(done)) == 4


def test_records_that_nothing_was_committed_under_stay_until_a_job_works(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(RunnerError):
        run(job(tmp_path, "failing_on", mode="inline", **{"model.value": 30, "shard_bytes": "1GiB"}))
    before = contents(tmp_path / "out")
    assert any("plan-" in name for name in before)
    with pytest.raises(RunnerError):
        run(job(tmp_path, "raising", mode="inline"))
    assert contents(tmp_path / "out") == before
    assert run(job(tmp_path, mode="inline")).status == "complete"


def test_an_output_that_grew_since_it_was_looked_at_is_not_deleted(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a run that held the sink while this one read its records."""
    plain = survey_of

    def late(*given: Any) -> Any:
        parts(done)[0].unlink()
        return plain(*given)

    monkeypatch.setattr("runner.job.survey_of", late)
    with pytest.raises(Incomplete, match="nothing was deleted"):
        run(job(done, mode="inline", **{"model.factor": 3, **OVERWRITE}))
    assert len(parts(done)) == 3


def test_an_empty_output_may_be_replaced_by_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for _ in range(2):
        given = {"model.factor": 3, "source.allow_empty": True, **OVERWRITE}
        assert run(job(tmp_path, mode="inline", **given)).status == "complete"
    assert (tmp_path / "out/_SUCCESS").exists()


def test_a_plan_of_an_overwrite_tells_what_it_replaces(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = job(done, mode="inline", **{"model.factor": 3, **OVERWRITE})
    command = [f"{key}={'null' if value is None else value}" for key, value in given.items()]
    assert main([*command, "action=plan"]) == 0
    told = capsys.readouterr().out
    assert "0 committed, 4 to do" in told
    assert "replaces the output that is there: 4 parts" in told
