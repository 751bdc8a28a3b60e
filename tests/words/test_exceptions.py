"""What others wrote is shown: where in the user's code an error came from, and no more of it than is read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import restless
from conftest import Runs
from test_job import job, parts, write_input

from runner import ConfigError, JobFailed, run
from runner.__main__ import main
from runner.errors import RunnerError
from runner.predictor.child import Child
from runner.storage.transience import is_of_storage, is_transient
from runner.words import exceptions

RESTLESS = "restless.troubled"


def troubled(tmp_path: Path, how: str, **more: Any) -> dict[str, Any]:
    return job(tmp_path, **{"model._target_": RESTLESS, "model.how": how, **more})


def last_report(tmp_path: Path) -> dict[str, Any]:
    [file] = (tmp_path / "out/_runner/runs").glob("*/report.json")
    content: dict[str, Any] = json.loads(file.read_text())
    return content


# ---------------------------------------------------------------- where it came from


def test_an_error_shows_the_frames_of_the_users_code(executor: Runs, tmp_path: Path) -> None:
    """Of the first batch; in whatever process it was predicted."""
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed) as failed:
        executor(troubled(tmp_path, "deep"))
    first, *places = str(failed.value).splitlines()
    assert first.endswith("000.parquet row 0: KeyError: 'nope0'")
    assert [line.partition(": ")[2] for line in places][-1] == "return CODES[name]"
    assert "in _looked_up" in places[-1]
    assert not [line for line in places if "/runner/" in line or "site-packages" in line]
    assert "Traceback (most recent call last)" in failed.value.details


def test_the_record_of_a_later_failure_holds_the_whole_traceback(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    with pytest.raises(JobFailed, match="return CODES"):
        executor(troubled(tmp_path, "deep", **{"predict.output_schema": {"twice": "int64"}}))
    report = last_report(tmp_path)
    assert "_looked_up" in report["failures"][0]["details"]
    assert "Traceback (most recent call last)" in report["error"]["details"]
    assert report["exit_code"] == 1


@pytest.mark.parametrize("place", ["driver", "worker"])
def test_a_loader_shows_its_frames_too(executor: Runs, tmp_path: Path, place: str) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed) as failed:
        executor(troubled(tmp_path, "load", **{"predict.load_on": place}))
    assert "return CODES[name]" in str(failed.value).splitlines()[-1]


def test_the_terminal_shows_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "in")
    given = ["source=parquet", f"source.path={tmp_path / 'in'}", f"sink.path={tmp_path / 'out'}", "mode=inline"]
    assert main([*given, "model=custom", f"model._target_={RESTLESS}", "model.how=deep"]) == 1
    shown = capsys.readouterr()
    assert (shown.err + shown.out).count("return CODES[name]") == 1


def test_a_process_of_the_predictors_own_hands_its_frames_over() -> None:
    child = Child(pickle.dumps((False, restless.troubled_by_itself)))
    try:
        [raised] = child([None])
    finally:
        child.close()
    assert isinstance(raised.error, KeyError)
    assert exceptions.user_frames(raised.error).splitlines()[-1].endswith("return CODES[name]")
    assert "Traceback (most recent call last)" in exceptions.full_traceback(raised.error)


def test_what_led_to_it_and_notes_are_shown(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed) as failed:
        run(troubled(tmp_path, "chained", mode="inline"))
    lines = [line.strip() for line in str(failed.value).splitlines()]
    assert lines[0].endswith("ValueError: no such customer")
    assert "looked for in the year's table" in lines
    assert "caused by KeyError: 'nope'" in lines


def test_of_a_library_only_the_innermost_frame_is_shown(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed) as failed:
        run(troubled(tmp_path, "in a library", mode="inline"))
    places = [line.strip() for line in str(failed.value).splitlines() if line.startswith(("  at ", "  in "))]
    assert ["restless.py" in line or line.startswith("in pandas") for line in places[:2]] == [True, True]


def test_quarantined_rows_tell_the_place_of_the_first(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = run(troubled(tmp_path, "odd", **{"errors": "quarantine", "errors.max_bad_rows": 1000, "mode": "inline"}))
    told = [note for note in report.notes if note.startswith("quarantined: ")]
    assert "restless.py" in told[0]
    assert "restless.py" not in told[1]


# ---------------------------------------------------------------- how much of it


def test_a_text_is_short_and_moves_no_cursor() -> None:
    shown = exceptions.clipped("\x1b[2J\x9b\r\u202e" + "y" * 50_000_000)
    assert len(shown) < exceptions.LINE + 100
    assert shown.startswith(r"\x1b[2J\x9b\r\u202ey")
    assert shown.endswith("more characters)")
    assert exceptions.clipped("plain\ntext\twith ümlauts 漢字") == "plain\ntext\twith ümlauts 漢字"


def test_an_error_whose_text_cannot_be_had_has_a_text() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert exceptions.describe(Broken()) == "Broken: (its text cannot be had: ValueError)"


def test_a_huge_error_is_short_everywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_input(tmp_path / "in")
    more = {"errors": "quarantine", "errors.max_bad_rows": 1000, "mode": "inline"}
    run(troubled(tmp_path, "huge", **more))
    bad = next((tmp_path / "out/_runner/quarantine").glob("*"))
    assert max(map(len, pq.read_table(bad)["_error"].to_pylist())) < exceptions.RECORD + 100
    assert max(file.stat().st_size for file in (tmp_path / "out/_runner/runs").glob("*/*")) < 100_000
    assert "\x1b" not in "".join(capfd.readouterr())


# ---------------------------------------------------------------- what kind it is of


@pytest.mark.parametrize("how", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "CancelledError"])
def test_what_would_end_a_process_is_an_error_of_the_model(executor: Runs, tmp_path: Path, how: str) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(JobFailed, match=r"RuntimeError: the predictor (raised|called)"):
        executor(troubled(tmp_path, how))


def test_a_value_that_a_format_cannot_hold_is_no_storage_trouble(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(JobFailed, match=r"column when \(timestamp\[s\]\), row 9 of its batch: OverflowError"):
        run(troubled(tmp_path, "after 9999", sink="jsonl", mode="inline"))


@pytest.mark.parametrize("sink", ["parquet", "csv", "jsonl", "arrow"])
def test_run_end_encoded_predictions_are_written_as_plain_ones(tmp_path: Path, sink: str) -> None:
    write_input(tmp_path / "in", files=2)
    report = run(troubled(tmp_path, "run-end-encoded", sink=sink, mode="inline"))
    assert report.status == "complete"
    assert len(parts(tmp_path)) == 2


def test_only_what_a_storage_raised_is_of_it() -> None:
    wrapped = RuntimeError("in a wrapper")
    wrapped.__cause__ = PermissionError("no")
    assert is_of_storage(wrapped)
    assert is_of_storage(OSError(28, "full"))
    for other in (pa.ArrowTypeError("x"), pa.ArrowNotImplementedError("x"), OverflowError(), ValueError(), TypeError()):
        assert not is_of_storage(other)


def test_errors_that_lead_back_to_each_other_are_each_looked_at_once() -> None:
    first, second = ValueError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert list(exceptions.led_to(first)) == [first, second]
    assert not is_transient(first)
    assert not is_of_storage(first)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("key", ["resources.num_cpus", "resources.num_gpus", "errors.grace_period"])
def test_a_number_is_finite(tmp_path: Path, key: str, value: float) -> None:
    write_input(tmp_path / "in", files=1)
    with pytest.raises(ConfigError, match=rf"{key}=.*: expected a number >= 0"):
        run(troubled(tmp_path, "deep", **{key: value, "mode": "inline"}))


def test_our_own_errors_keep_what_is_behind_them() -> None:
    assert RunnerError("text", details="a traceback").details == "a traceback"
    assert ConfigError("text").problems == ["text"]
