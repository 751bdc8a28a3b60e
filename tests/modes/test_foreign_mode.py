"""A mode that somebody else wrote, in whole jobs: the same bytes, bad rows put aside, and killed jobs continued."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from test_cluster import _wait_for_parts
from test_job import predicted, write_input
from test_kill import command, start

from runner import run
from runner.__main__ import main

THREADS = ("custom", "mode._target_=foreign.threads.Threads", "mode.size=3")


def refuse_thirteens(batch: Any) -> Any:
    if (batch["x"] % 13 == 0).any():
        raise ValueError("thirteen")
    return batch["x"] * 2


def parts(sink: Path) -> dict[str, str]:
    return {str(file.relative_to(sink)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sink.rglob("part-*")}


def test_the_bytes_of_a_foreign_mode_are_those_of_ours(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    config: dict[str, Any] = {"source": "parquet", "source.path": "in", "shard_bytes": None, "errors": "quarantine"}
    config |= {"errors.max_bad_rows": 100, "batch_size": 7}
    threads = {"mode": "custom", "mode._target_": "foreign.threads.Threads"}
    for name, mode in {"ours": {"mode": "inline"}, "theirs": threads}.items():
        report = run({**config, **mode, "sink.path": name}, model=refuse_thirteens)
        assert report.rows_quarantined > 0
    assert parts(tmp_path / "ours") == parts(tmp_path / "theirs") != {}


@pytest.mark.slow
def test_a_job_in_a_foreign_mode_is_killed_and_continued(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, *THREADS)
    _wait_for_parts(tmp_path, 3, running)
    running.kill()
    running.communicate()
    assert not (tmp_path / "out/_SUCCESS").exists()
    again = command(tmp_path, *THREADS)[3:]
    assert main(again) == 0
    assert predicted(tmp_path) == [2 * x for x in range(300)]
    assert main([*again, "action=verify"]) == 0


@pytest.mark.slow
def test_a_job_in_a_foreign_mode_drains_after_a_signal(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    running = start(tmp_path, *THREADS)
    _wait_for_parts(tmp_path, 1, running)
    running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143, errors
    assert main(command(tmp_path, *THREADS)[3:]) == 0
    assert predicted(tmp_path) == [2 * x for x in range(300)]
