"""The mark that keeps two runs from writing to one sink."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_job import job, predicted, write_input

from runner import Incomplete, run
from runner.mark import MARK, STALE_SECONDS, Mark, abandoned
from runner.storage import Store


def content(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(MARK) or b"{}")
    return found


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with Mark(store, "first"), pytest.raises(Incomplete, match="another run is writing here: first") as refused:
        Mark(store, "second").__enter__()
    assert refused.value.exit_code == 75
    assert store.read(MARK) is None, "the mark outlived its run"


def test_a_mark_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    """As after a SIGKILL: the same command again must not wait."""
    code = f"import os; from runner.mark import Mark; from runner.storage import Store\n\
Mark(Store({str(tmp_path)!r}), 'killed').__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store(str(tmp_path))
    assert content(store)["run_id"] == "killed"
    with Mark(store, "next"):
        assert content(store)["run_id"] == "next"


def test_a_mark_of_another_host_is_taken_over_once_it_is_stale() -> None:
    held = {"run_id": "far", "host": "elsewhere", "pid": 1, "started": "1", "since": 0, "refreshed": 1000.0}
    assert not abandoned(held, 1000 + STALE_SECONDS - 1)
    assert abandoned(held, 1000 + STALE_SECONDS + 1)


def test_a_process_number_that_is_used_again_is_not_the_same_process() -> None:
    with_number = {"host": "", "pid": os.getpid(), "started": "an earlier time", "refreshed": 1e12}
    import runner.mark as module

    assert abandoned({**with_number, "host": module._host()}, 0)
    assert not abandoned({**with_number, "host": "elsewhere"}, 0)


def test_a_process_that_nobody_has_waited_for_is_gone(tmp_path: Path) -> None:
    code = f"import os; from runner.mark import Mark; from runner.storage import Store\n\
Mark(Store({str(tmp_path)!r}), 'killed').__enter__(); os.kill(os.getpid(), 9)"
    process = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
    try:
        with Mark(Store(str(tmp_path)), "next"):
            assert content(Store(str(tmp_path)))["run_id"] == "next"
    finally:
        process.wait()


def test_a_torn_mark_does_not_stop_a_run(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.replace(MARK, b"{torn")
    with Mark(store, "next"):
        assert content(store)["run_id"] == "next"


def test_a_run_leaves_no_mark_and_respects_one(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    store = Store(str(tmp_path / "out"))
    with Mark(store, "other"), pytest.raises(Incomplete, match="another run"):
        run(job(tmp_path, mode="inline"))
    run(job(tmp_path, mode="inline"))
    assert store.read(MARK) is None
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    with Mark(store, "other"), pytest.raises(Incomplete, match="another run"):
        run(job(tmp_path, mode="inline", **{"sink.save_mode": "overwrite"}))
    assert predicted(tmp_path) == [2 * x for x in range(100)], "wiped under a fresh mark"
