"""The demo job, in every mode."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from conftest import Runs


def test_demo_predicts_every_row(executor: Runs, tmp_path: Path) -> None:
    report = executor({"sink.path": str(tmp_path / "out")})
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert len(parts) == 12
    assert sum(pq.read_metadata(part).num_rows for part in parts) == report.rows_out == 1_710_629
    assert (tmp_path / "out" / "_SUCCESS").exists()
