"""The benchmarks run, and believe nobody; what they measure is not for a test."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import measuring, run
from benchmarks.catalog import ALL, Program
from benchmarks.measuring import Bench, Measured
from benchmarks.memory import watched
from benchmarks.tables import Results
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parent.parent
ROWS_OF_JANUARY = "141,062"
WRITES = """
import json, os, sys, pyarrow, pyarrow.parquet
os.makedirs(sys.argv[1])
pyarrow.parquet.write_table(pyarrow.table({"prediction": %s}), sys.argv[1] + "/part.parquet")
print(json.dumps({"seconds": 2}))
"""
HOLDS = "import time; held = bytearray(200 * 1024**2); print(flush=True); time.sleep(60)"


def writer(predictions: str) -> Program:
    """A program that pretends to have predicted."""
    return Program("The writer", lambda *given: ["-c", WRITES % predictions, given[1]])


@pytest.mark.slow
def test_smallest_benchmark_counts_and_compares() -> None:
    smallest = ["--workload", "taxi", "--files", "1", "--repeat", "1", "--programs", "ours-inline,limit"]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *smallest]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"workload taxi: {ROWS_OF_JANUARY} rows, 1 file, median of 1" in done.stdout
    titles = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert [title.partition(":")[0].partition(",")[0] for title in titles[2:]] == ["ours", "limit"]


def test_program_that_cannot_run_here_is_left_out_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL, "peer", Program("A peer", ALL["limit"].command, packages=["no_such_package"]))
    names, lines = run.able(["limit", "peer", "spark"], WORKLOADS["latency"])
    assert names == ["limit"]
    assert "A peer: no_such_package not installed" in lines[0]
    assert "Spark" in lines[1]


def test_unknown_program_is_refused() -> None:
    with pytest.raises(SystemExit, match="no limmit; there are"):
        run.able(["limmit"], WORKLOADS["taxi"])


@pytest.mark.parametrize(
    ("predictions", "wrong"),
    [("[1.0, 2.0]", "2 predictions of 3"), ("[3.0, 1.0, 2.5]", "1 of 3 predictions differ, by up to 0.5")],
)
def test_predictions_unlike_those_of_the_others_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictions: str, wrong: str
) -> None:
    bench = Bench(WORKLOADS["taxi"], str(tmp_path), tmp_path, rows=3)
    monkeypatch.setitem(ALL, "first", writer("[1.0, 2.0, 3.0]"))
    monkeypatch.setitem(ALL, "alike", writer("[3.0, 1.00001, 2.0]"))
    monkeypatch.setitem(ALL, "wrong", writer(predictions))
    assert bench.measure("first").predicting == 2
    bench.measure("alike")
    with pytest.raises(RuntimeError, match=f"The writer: {wrong}"):
        bench.measure("wrong")


def test_vectors_are_compared_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(WORKLOADS["minilm"], str(tmp_path), tmp_path, rows=2)
    monkeypatch.setitem(ALL, "first", writer("[[1.0, 2.0], [3.0, 4.0]]"))
    monkeypatch.setitem(ALL, "wrong", writer("[[1.0, 2.0], [4.0, 3.0]]"))
    bench.measure("first")
    with pytest.raises(RuntimeError, match="1 of 2 predictions differ"):
        bench.measure("wrong")


def test_memory_counts_descendants() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        with watched(process.pid, True) as samples:
            assert process.stdout is not None
            process.stdout.readline()
            known = len(samples)
            while len(samples) < known + 2:
                time.sleep(0.05)
        for each in psutil.Process(process.pid).children():
            each.kill()
    assert samples[-1].size > 200 * 1024**2


@pytest.mark.slow
def test_program_that_hangs_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LONGEST", 5)
    child = "import time; time.sleep(60)"
    code = f"import pathlib, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
    code += "pathlib.Path('child').write_text(str(p.pid)); p.wait()"
    with pytest.raises(subprocess.TimeoutExpired):
        measuring.run(["-c", code], tmp_path, watch=False)
    orphan = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_table_compares_with_the_first_program() -> None:
    timed = {"limit": [Measured(1.0, 0.5)], "ours-tasks": [Measured(4.0, 1.0, 0.25), Measured(6.0, 2.0, 0.75)]}
    _, _, limit, ours = Results(timed, {}, 10).table(["model at work", "predicting per file"])
    assert limit.endswith("| 1.00 s (1.00) | 0.50 s (0.50) | 1.00 | 1.00 | - | 50.00 ms |")
    assert ours.endswith("| 5.00 s (4.00) | 1.50 s (1.00) | 5.00 | 3.00 | 50% | 150.00 ms |")
