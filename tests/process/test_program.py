"""What the user's code starts, and what nobody reads: neither makes a job fail, nor keeps it from ending."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import MODES, Runs
from test_cluster import environment
from test_job import job, predicted, write_input

from runner import Incomplete, run
from runner.process.signals import Signals

TWICE = [2 * x for x in range(50)]


def command(tmp_path: Path, loader: str, *more: str) -> list[str]:
    given = ["source=parquet", f"source.path={tmp_path / 'in'}", f"sink.path={tmp_path / 'out'}", "shard_bytes=null"]
    return [sys.executable, "-m", "runner", *given, "model=custom", f"model._target_=restless.{loader}", *more]


# ---------------------------------------------------------------- processes, threads, event loops


@pytest.fixture
def _sigterm_ends_processes() -> Iterator[None]:
    """As in a plain Python: what measures coverage handles it too, and forks would inherit that."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_sigterm_ends_processes")
@pytest.mark.parametrize("how", ["_with_pool", "_with_executor", "_with_processes", "_with_loop"])
def test_a_predictor_may_start_processes_and_event_loops(executor: Runs, tmp_path: Path, how: str) -> None:
    """A pool's processes are told to end by SIGTERM: what ignores it, or only notes it, would be waited for without end."""
    write_input(tmp_path / "in", files=2)
    executor(job(tmp_path, **{"model._target_": "restless.starting", "model.how": how, "batch_size": 25}))
    assert predicted(tmp_path) == TWICE


def test_a_predictor_may_run_an_event_loop_where_a_notebook_runs_one(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)

    async def notebook() -> None:
        run(job(tmp_path, **{"model._target_": "restless.starting", "model.how": "_with_loop", "mode": "inline"}))

    asyncio.run(notebook())
    assert predicted(tmp_path) == TWICE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_fork_handles_signals_as_this_process_did_before_the_job(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals():
        assert signal.getsignal(number) != before
        if not (child := os.fork()):
            os._exit(0 if signal.getsignal(number) == before else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert signal.getsignal(number) == before


@pytest.mark.slow
@pytest.mark.parametrize("what", ["thread", "fork"])
def test_what_the_predictor_leaves_running_does_not_keep_a_finished_job(tmp_path: Path, what: str) -> None:
    write_input(tmp_path / "in", files=2)
    given = command(tmp_path, "leaving_behind", f"model.what={what}", "mode=inline")
    done = subprocess.run(given, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert predicted(tmp_path) == TWICE
    assert "complete: 2 shards committed" in done.stdout


@pytest.mark.slow
def test_a_failed_job_keeps_its_exit_code_whatever_still_runs(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    more = ["model.what=thread", "mode=inline", "predict.output_schema={thrice: int64}"]
    given = command(tmp_path, "leaving_behind", *more)
    done = subprocess.run(given, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr


def test_programs_that_a_worker_started_end_with_it(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    flag = tmp_path / "started"
    run(
        job(
            tmp_path,
            **{
                "model._target_": "restless.leaving_behind",
                "model.what": "program",
                "model.flag": str(flag),
                "mode": "processes",
            },
        )
    )
    started = [int(line) for line in flag.read_text().splitlines()]
    assert started
    assert not [pid for pid in started if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_the_death_of_a_worker_is_noticed_although_its_fork_lives(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    more: dict[str, Any] = {
        "model._target_": "restless.leaving_behind",
        "model.what": "fork and die",
        "mode": "processes",
        "errors.max_lost_workers": 0,
    }
    with pytest.raises(Incomplete, match="left with exit code 3"):
        run(job(tmp_path, **more))


# ---------------------------------------------------------------- nobody reads


def _closed_pipe() -> int:
    ours, theirs = os.pipe()
    os.close(ours)
    return theirs


def _hung_up_terminal() -> int:
    ours, theirs = os.openpty()
    os.close(ours)
    return theirs


UNREAD: dict[str, Callable[[], int]] = {
    "closed pipe": _closed_pipe,
    "full disk": lambda: os.open("/dev/full", os.O_WRONLY),
    "hung up terminal": _hung_up_terminal,
}


def _run_unread(tmp_path: Path, mode: str, number: int) -> None:
    given = command(tmp_path, "talking", f"mode={mode}", "batch_size=10")
    done = subprocess.run(given, cwd=tmp_path, env=environment(), stdout=number, stderr=number, timeout=240)
    os.close(number)
    assert done.returncode == 0
    assert (tmp_path / "out/_SUCCESS").exists()
    assert predicted(tmp_path) == TWICE


@pytest.mark.parametrize("where", UNREAD)
def test_nobody_need_read_what_is_shown(tmp_path: Path, where: str) -> None:
    write_input(tmp_path / "in", files=2)
    _run_unread(tmp_path, "inline", UNREAD[where]())


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "inline"])
def test_nobody_need_read_what_is_shown_in_any_mode(tmp_path: Path, mode: str) -> None:
    write_input(tmp_path / "in", files=2)
    _run_unread(tmp_path, mode, _closed_pipe())


@pytest.mark.parametrize("mode", ["inline", pytest.param("processes", marks=pytest.mark.slow)])
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_number_of_a_closed_standard_file(tmp_path: Path, mode: str, closed: str) -> None:
    """It would be written to by whoever warns or prints."""
    write_input(tmp_path / "in", files=2)
    given = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(tmp_path, "talking", f"mode={mode}", "batch_size=10")]
    done = subprocess.run(given, cwd=tmp_path, env=environment(), capture_output=True, timeout=120)
    assert done.returncode == 0
    assert predicted(tmp_path) == TWICE
    records = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [
        file for file in records if b"x" * 1000 in file.read_bytes() or b"of the predictor's" in file.read_bytes()
    ]


def test_a_person_who_reads_sees_the_same_as_ever(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2)
    given = command(tmp_path, "talking", "mode=inline", "model.odd=yes")
    done = subprocess.run(given, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "complete: 2 shards committed" in done.stdout
    assert "predicting 2 shards" in done.stderr
    assert "\\udcff" in done.stdout
    assert "a line of the predictor's" in done.stderr


def test_workers_that_nobody_needs_end_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The job is done before most of them have come up."""
    write_input(tmp_path / "in", files=1)
    run(job(tmp_path, **{"mode": "processes", "mode.num_workers": 6}))
    shown = capfd.readouterr()
    assert "predicting 1 shard" in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert "Error" not in shown.err + shown.out
