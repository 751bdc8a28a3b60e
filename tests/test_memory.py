"""Ray's own memory monitor takes workers that need too much: a real one, with its threshold put just above what is in use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_job import digests, job, parts, write_input

from runner import run

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow
MIB, GIB = 1024**2, 1024**3
PER_ROW = 32 * MIB
ROWS = 192  # in one batch: 6 GiB, where 3 GiB are left; an eighth fits for sure
LEFT = 3 * GIB


def watched() -> dict[str, str]:
    """An environment in which Ray's memory monitor allows `LEFT` more than is used now."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    threshold = (get_used_memory() + LEFT) / get_system_memory()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    limits = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    return {**kept, **limits, "PYTHONPATH": str(TESTS)}


def write_mixed_input(folder: Path) -> None:
    """A file whose one batch takes too much between two that do not."""
    write_input(folder, files=2, rows=4)
    pq.write_table(pa.table({"x": list(range(1000, 1000 + ROWS))}), folder / "000-much.parquet")


def given(tmp_path: Path, bytes_per_row: int) -> dict[str, object]:
    sized = {"model.bytes_per_row": bytes_per_row, "batch_size": ROWS, "predict.columns": ["x"]}
    return job(tmp_path, "greedy", **sized)


@pytest.mark.skipif(psutil.virtual_memory().available < 5 * GIB, reason="needs 5 GiB of memory to spare")
@pytest.mark.usefixtures("much_memory")
@pytest.mark.parametrize("mode", ["tasks", "actors"])
def test_a_job_survives_the_memory_monitor(tmp_path: Path, mode: str) -> None:
    write_mixed_input(tmp_path / "in")
    run({**given(tmp_path, 0), "mode": "inline", "sink.path": str(tmp_path / "calm")})
    overrides = [
        f"{key}={json.dumps(value) if value is None or isinstance(value, list) else value}"
        for key, value in given(tmp_path, PER_ROW).items()
    ]
    done = subprocess.run(
        [sys.executable, "-m", "runner", *overrides, f"mode={mode}", "errors.max_lost_workers=5"],
        cwd=tmp_path,
        env=watched(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [*digests(tmp_path).values()] == [*digests(tmp_path, "calm").values()]
    assert sum(pq.read_metadata(part).num_rows for part in parts(tmp_path)) == 8 + ROWS
    [report] = (tmp_path / "out/_runner/runs").glob("*/report.json")
    assert json.loads(report.read_text())["lost_workers"] >= 1
    assert "OutOfMemoryError" in done.stderr, "the worker was lost, but not known to have been killed for its memory"
