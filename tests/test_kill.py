"""The driver is killed, or told to stop, as a whole process; the same command continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import MODES
from test_cluster import _wait_for_parts, environment
from test_job import digests, parts, predicted, write_input

RAY = ("tasks", "actors")  # a Ray of its own for each run takes seconds

pytestmark = pytest.mark.slow


def command(tmp_path: Path, mode: str, *more: str) -> list[str]:
    given = ["source=parquet", f"source.path={tmp_path / 'in'}", "model=custom", "shard_bytes=null", "batch_size=10"]
    model = ["model._target_=predictors.slow", "model.seconds=0.1"]
    return [sys.executable, "-m", "runner", *given, *model, f"mode={mode}", f"sink.path={tmp_path / 'out'}", *more]


def start(tmp_path: Path, mode: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(tmp_path, mode, *more),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The family without Ray's own agents, which outlive a killed driver by about a minute, and execute nothing."""
    return [
        each
        for each in family(process)
        if not " ".join(each.cmdline()).startswith(("ray::Dashboard", "ray::RuntimeEnv"))
    ]


def all_gone(processes: list[psutil.Process], seconds: float = 30) -> bool:
    """Whether every process ends; Ray's own daemons notice a killed driver within seconds."""
    return not psutil.wait_procs(processes, seconds)[1]


def kill_driver(running: subprocess.Popen[str]) -> None:
    """SIGKILL; its workers end by themselves."""
    processes = workers(running)
    running.kill()
    running.communicate()
    assert all_gone(processes)


def finished(running: subprocess.Popen[str]) -> str:
    """What a job that must end well prints to its stdout."""
    out, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    return out


@pytest.mark.parametrize("mode", MODES)
def test_sigkill_of_the_driver_loses_and_doubles_nothing(tmp_path: Path, mode: str) -> None:
    write_input(tmp_path / "in", files=12)
    for committed in (3,) if mode in RAY else (2, 6):
        running = start(tmp_path, mode)
        _wait_for_parts(tmp_path, committed, running)
        kill_driver(running)
        assert not (tmp_path / "out/_SUCCESS").exists()
    out = finished(start(tmp_path, mode))
    assert predicted(tmp_path) == [2 * x for x in range(300)]
    assert (tmp_path / "out/_SUCCESS").exists()
    assert "were there before" in out
    reports = [json.loads(file.read_text()) for file in (tmp_path / "out/_runner/runs").glob("*/report.json")]
    [report] = (each for each in reports if each["status"] != "running")  # which killed runs leave
    assert report["status"] == "complete"
    assert (report["ray_seconds"] > 0) == (mode in RAY)


def test_a_killed_run_gives_the_bytes_of_a_calm_one(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=6)
    running = start(tmp_path, "inline")
    _wait_for_parts(tmp_path, 3, running)
    running.kill()
    running.communicate()
    subprocess.run(command(tmp_path, "inline"), cwd=tmp_path, env=environment(), check=True, capture_output=True)
    killed = digests(tmp_path)
    (tmp_path / "out").rename(tmp_path / "killed")
    subprocess.run(command(tmp_path, "inline"), cwd=tmp_path, env=environment(), check=True, capture_output=True)
    assert killed == digests(tmp_path)


@pytest.mark.parametrize(
    ("number", "mode"),
    [*((signal.SIGTERM, mode) for mode in MODES), *((signal.SIGINT, mode) for mode in ("inline", "tasks"))],
)
def test_a_first_signal_drains_and_the_same_command_continues(
    tmp_path: Path, number: signal.Signals, mode: str
) -> None:
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, mode)
    _wait_for_parts(tmp_path, 2, running)
    processes = family(running)
    running.send_signal(number)
    out, errors = running.communicate(timeout=90)
    assert running.returncode == 128 + number, errors
    assert "interrupted: " in out
    assert out.rstrip().splitlines()[-1].startswith("continue with: python -m runner source=parquet")
    assert all_gone(processes)
    assert 2 <= len(parts(tmp_path)) < 12
    assert not list((tmp_path / "out").rglob("*.tmp"))
    finished(start(tmp_path, "inline"))  # what a mode has begun, any other continues
    assert predicted(tmp_path) == [2 * x for x in range(300)]


@pytest.mark.parametrize(
    ("mode", "place"),
    [("inline", "driver"), ("processes", "driver"), ("tasks", "driver"), ("tasks", "worker"), ("actors", "worker")],
)
def test_a_signal_while_the_model_loads_is_an_interruption(tmp_path: Path, mode: str, place: str) -> None:
    """With a big model that is minutes: just when a scheduler takes the machine back."""
    write_input(tmp_path / "in", files=2)
    flag = tmp_path / "loading"
    model = [
        "model._target_=predictors.loading_slowly",
        f"model.flag={flag}",
        "model.seconds=600",
        f"predict.load_on={place}",
    ]
    running = start(tmp_path, mode, *model, "errors.grace_period=1")
    _wait_for(running, flag.exists)
    if mode == "tasks" and place == "driver":
        _wait_for_ray(running)  # while it starts, SIGTERM is its own
    processes = family(running)
    running.send_signal(signal.SIGTERM)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "interrupted: " in out
    assert "continue with" in out
    assert all_gone(processes)


def _wait_for(running: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert running.poll() is None, "the job ended early"
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def _wait_for_ray(running: subprocess.Popen[str]) -> None:
    _wait_for(running, lambda: any("ray::IDLE" in " ".join(each.cmdline()) for each in family(running)))
    time.sleep(2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_drains_too(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, `timeout` and systemd send it to every process of the job."""
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, "processes")
    _wait_for_parts(tmp_path, 2, running)
    processes = family(running)
    os.killpg(running.pid, number)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number, errors
    assert "interrupted: " in out
    assert "trying" not in errors
    assert "lost worker" not in out
    assert all_gone(processes)


def test_a_signal_in_line_ends_at_a_batch_once_the_grace_is_over(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1, rows=1000)
    running = start(tmp_path, "inline", "errors.grace_period=1", f"model.flag={tmp_path / 'begun'}")
    _wait_for(running, (tmp_path / "begun").exists)
    running.send_signal(signal.SIGTERM)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert "interrupted: " in out
    assert not list((tmp_path / "out").rglob("*.tmp"))


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_hangs_up_drains_a_job_unless_it_was_told_to_stay(tmp_path: Path, ignored: bool) -> None:
    write_input(tmp_path / "in", files=6)
    given = [*(["nohup"] if ignored else []), *command(tmp_path, "inline")]
    running = subprocess.Popen(
        given, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for_parts(tmp_path, 2, running)
    running.send_signal(signal.SIGHUP)
    out, errors = running.communicate(timeout=60)
    assert running.returncode == (0 if ignored else 128 + signal.SIGHUP), errors
    assert ("complete: " if ignored else "interrupted: ") in out


def test_a_second_signal_stops_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, "tasks", "model.seconds=5", "predict.output_schema={twice: int64}")
    _wait_for(running, (tmp_path / "out/_runner/plan-000000.parquet").exists)
    time.sleep(1)
    processes = family(running)
    running.send_signal(signal.SIGINT)
    time.sleep(1)
    started = time.monotonic()
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert time.monotonic() - started < 15, "it waited for the calls in flight"
    assert running.returncode == 130
    assert "interrupted: " in out
    assert all_gone(processes)


def test_a_sweep_ends_with_the_job_that_was_interrupted(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    sweep = ["-m", "batch_size=10,5", f"sink.path={tmp_path}/out/${{batch_size}}"]
    running = start(tmp_path, "inline", *sweep)
    _wait_for_parts(tmp_path, 2, running)
    os.kill(running.pid, signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert (tmp_path / "out/10").exists()
    assert not (tmp_path / "out/5").exists()
