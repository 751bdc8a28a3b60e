"""Every run that got as far as its sink leaves a report and a log, however it ended."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_job import job, predicted, write_input

from runner import ConfigError, Incomplete, JobFailed, RunnerError, SinkRefused, run
from runner.driver.record import FIRST_LINES, LAST_LINES, LINE, Lines
from runner.ledger.ledger import OUR_RECORDS, OUR_TEMPORARY
from runner.ledger.mark import Mark
from runner.storage.folder import Folder

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  ")


def reports(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "out/_runner/runs").glob("*/report.json"))]


def log(tmp_path: Path) -> str:
    [path] = (tmp_path / "out/_runner/runs").glob("*/run.log")
    return path.read_text()


def failed(tmp_path: Path, loader: str, kind: type[RunnerError], /, **more: Any) -> dict[str, Any]:
    """The report of a job that ends so."""
    with pytest.raises(kind):
        run(job(tmp_path, loader, mode="inline", **more))
    [report] = reports(tmp_path)
    return report


def test_a_complete_run_tells_when_where_and_what(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    [report] = reports(tmp_path)
    assert (report["status"], report["error"], report["exit_code"]) == ("complete", None, 0)
    assert report["started"] < report["ended"]
    assert report["host"]
    assert report["config"]["batch_size"] == 10
    lines = log(tmp_path).splitlines()
    assert all(TIME.match(line) or line.startswith(" " * 26) for line in lines)
    for told in (
        "looking at the input",
        "loading the model",
        "predicting the first batch (10 rows)",
        "complete: 4 shards",
    ):
        assert told in log(tmp_path)


def test_a_model_that_does_not_load_leaves_a_record(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = failed(tmp_path, "raising", JobFailed)
    assert report["status"] == "failed"
    assert "no weights here" in report["error"]["message"]
    assert "in raising" in report["error"]["details"], "the frames of the loader are there"
    assert "no weights here" in log(tmp_path)


def test_a_first_batch_that_fails_leaves_a_record(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = failed(tmp_path, "poisoned", JobFailed, **{"model.values": [3]})
    assert (report["status"], report["error"]["kind"]) == ("failed", "data")
    assert "cannot predict 3" in report["error"]["message"]
    assert "ArithmeticError" in report["error"]["details"]


def test_input_that_cannot_be_used_leaves_a_record(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = failed(tmp_path, "doubling", ConfigError, **{"predict.columns": ["no_such"]})
    assert (report["status"], report["exit_code"], report["error"]["kind"]) == ("failed", 2, "ConfigError")


def test_the_record_of_a_failed_run_is_no_output(tmp_path: Path) -> None:
    """The next run, also of another job and with `error`, finds the sink as good as empty."""
    write_input(tmp_path / "in")
    failed(tmp_path, "raising", JobFailed)
    run(job(tmp_path, mode="inline", **{"sink.save_mode": "error"}))
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    assert sorted(report["status"] for report in reports(tmp_path)) == ["complete", "failed"]


def test_a_refused_run_leaves_the_sink_as_it_is(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/theirs.csv").touch()
    with pytest.raises(SinkRefused):
        run(job(tmp_path, mode="inline"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.csv"]


def test_a_run_that_finds_another_at_work_leaves_a_record(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with Mark(Folder(str(tmp_path / "out")), "other"):
        assert failed(tmp_path, "doubling", Incomplete)["status"] == "incomplete"


def test_a_record_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "out/_runner").mkdir(parents=True)
    (tmp_path / "out/_runner/runs").touch()
    with pytest.raises(JobFailed, match="no weights here"):
        run(job(tmp_path, "raising", mode="inline"))


def test_a_run_that_is_killed_leaves_a_report_that_says_running(tmp_path: Path) -> None:
    """What is there while it predicts is what a killed run leaves."""
    write_input(tmp_path / "in")
    run(job(tmp_path, "reading", mode="inline", **{"model.folder": str(tmp_path / "out/_runner/runs")}))
    assert set(predicted(tmp_path, "prediction")) == {"running"}


def test_a_log_is_bounded() -> None:
    lines = Lines()
    for number in range(10_000):
        lines.add(f"event {number} " + "x" * (2 * LINE if number % 100 == 0 else 0))
    content = lines.content().decode()
    assert content.count("\n") == FIRST_LINES + LAST_LINES + 1
    assert max(map(len, content.splitlines())) < LINE + 40
    assert "event 0 " in content
    assert "event 9999 " in content
    assert "... 8,000 lines are left out" in content


def test_the_ledger_knows_the_names() -> None:
    assert OUR_RECORDS.fullmatch("_runner/runs/20250101T000000-abcdef/run.log")
    assert OUR_TEMPORARY.fullmatch("_runner/runs/20250101T000000-abcdef/.run.log.01234567.tmp")
