"""`plan.tune_batch`: rates by batch size, and the smallest that is about as fast as the fastest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_job import job, write_input

from runner import ConfigError, plan
from runner.tuning import ENOUGH, Rate, knee


def tuned(tmp_path: Path, loader: str = "doubling", **more: Any) -> list[str]:
    return plan(job(tmp_path, loader, mode="inline", **{"plan.tune_batch": True, **more}))


def sizes(lines: list[str]) -> list[int]:
    return [
        int(found[1].replace(",", "")) for line in lines if (found := re.match(r"\s+([\d,]+)\s+[\d,]+ rows/s", line))
    ]


def test_rates_from_one_row_to_the_whole_sample_and_nothing_is_written(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=2, rows=25)
    lines = tuned(tmp_path)
    assert sizes(lines) == [1, 2, 4, 8, 16, 32, 50]
    assert any(re.match(r"knee: batch_size=\d+; .*the job has batch_size=10", line) for line in lines)
    assert not (tmp_path / "out").exists()


def test_what_a_batch_costs_whatever_its_size_makes_large_ones_faster(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1, rows=64)
    lines = tuned(tmp_path, "slow", **{"model.seconds": 0.02})
    assert any(line.startswith("knee: batch_size=64;") for line in lines)


def test_it_ends_where_memory_does(tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=1, rows=64)
    lines = tuned(tmp_path, "hungry", **{"model.rows": 9})
    assert sizes(lines) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("files", "loader", "told"),
    [
        (0, "doubling", "no rows to measure with"),
        (1, "raising", "cannot predict the first 25 rows: RuntimeError: no weights here"),
    ],
)
def test_what_cannot_be_measured_is_told(tmp_path: Path, files: int, loader: str, told: str) -> None:
    (tmp_path / "in").mkdir()
    write_input(tmp_path / "in", files=files)
    with pytest.raises(ConfigError, match=f"plan.tune_batch: .*{told}"):
        tuned(tmp_path, loader, **{"source.allow_empty": True})


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=20))
def test_the_knee_is_the_first_that_is_fast_enough(rates: list[float]) -> None:
    found = knee([Rate(2**i, rate) for i, rate in enumerate(rates)])
    assert found.rows_per_second >= ENOUGH * max(rates)
    assert all(rate < ENOUGH * max(rates) for rate in rates[: found.batch_size.bit_length() - 1])
