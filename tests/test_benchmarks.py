"""The benchmark runs; what it measures is not for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROWS_OF_JANUARY = "141,062"


def test_smallest_benchmark_counts_and_compares() -> None:
    smallest = ["--copies", "1", "--limit-files", "1", "--repeat", "1", "--only", "ours-inline,limit"]
    command = [sys.executable, str(ROOT / "benchmarks" / "taxi.py"), *smallest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"workload taxi: {ROWS_OF_JANUARY} rows" in done.stdout
    titles = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert [title.partition(":")[0].partition(",")[0] for title in titles[2:]] == ["ours", "limit"]
