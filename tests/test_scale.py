"""The benchmarks of scale run, small; what they measure is not for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def table(program: str, *arguments: str) -> list[list[str]]:
    """The rows of what a benchmark prints, cell by cell."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_dispatcher_is_measured_with_failures() -> None:
    rows = table("dispatcher.py", "--workers", "20", "--shards", "100,300", "--transient", "0.1", "--lost", "0.1")
    assert [row[0] for row in rows] == ["100", "300"]
    assert all(int(row[2]) > 0 for row in rows), "nothing was tried again"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "files"])
def test_a_job_is_measured_from_its_plan_to_its_resume(kind: str) -> None:
    rows = table("scale.py", kind, "--count", "4", "--mode", "inline")
    committed = {row[0].partition(":")[0]: int(row[1]) for row in rows[:2]}
    assert committed == {"plan": 4, "run": 4 if kind == "shards" else 2}
    assert [int(row[1]) for row in rows[2:]] == ([0, 0, 2] if kind == "shards" else [0, 0, 1])


def test_imagined_files_are_listed_and_planned() -> None:
    assert [row[1] for row in table("scale.py", "imagined", "--count", "2500")] == ["2,500", "2,500"]
