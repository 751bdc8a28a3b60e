"""What was measured as a table in Markdown, and the machine it was measured on."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from statistics import median

from benchmarks.catalog import ALL
from benchmarks.measuring import Measured

Runs = Mapping[str, Sequence[Measured]]
"""Names of programs to what was measured, repetition by repetition."""

PACKAGES = ("ray", "pyarrow", "pandas", "numpy", "torch", "transformers", "daft", "pyspark")
NOTHING = "-"  # where a program has no such number


@dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
        timed: The repetitions that count.
        watched: One more of each, in which its memory was watched; empty if it was not.
        files: Of the input.
    """

    timed: Runs
    watched: Runs
    files: int

    def table(self, extra: Sequence[str]) -> Iterator[str]:
        """Markdown: medians with the fastest beside them, and medians as multiples of the first program's.

        Args:
            extra: Further columns, among those of `EXTRA`.
        """
        columns = {**COLUMNS, **{title: EXTRA[title] for title in extra}, **(MEMORY if self.watched else {})}
        yield f"| program | {' | '.join(columns)} |"
        yield f"|---|{'---:|' * len(columns)}"
        for name in self.timed:
            yield f"| {ALL[name].title} | {' | '.join(cell(self, name) for cell in columns.values())} |"


def _whole(results: Results, name: str) -> str:
    return _told([run.whole for run in results.timed[name]])


def _predicting(results: Results, name: str) -> str:
    return _told([run.predicting for run in results.timed[name]]) if ALL[name].predicts else NOTHING


def _whole_ratio(results: Results, name: str) -> str:
    base = next(iter(results.timed))
    return f"{_median_whole(results, name) / _median_whole(results, base):.2f}"


def _predicting_ratio(results: Results, name: str) -> str:
    base = next(iter(results.timed))
    if not (ALL[name].predicts and ALL[base].predicts):
        return NOTHING
    return f"{_median_predicting(results, name) / _median_predicting(results, base):.2f}"


def _busy(results: Results, name: str) -> str:
    shares = [run.busy for run in results.timed[name] if run.busy is not None]
    return f"{median(shares):.0%}" if shares else NOTHING


def _per_file(results: Results, name: str) -> str:
    return f"{_median_predicting(results, name) / results.files * 1000:.2f} ms" if ALL[name].predicts else NOTHING


def _peak(results: Results, name: str) -> str:
    return f"{max((size for run in results.watched[name] for _, size in run.memory), default=0) / 1024**3:.2f} GiB"


def _median_whole(results: Results, name: str) -> float:
    return median(run.whole for run in results.timed[name])


def _median_predicting(results: Results, name: str) -> float:
    return median(run.predicting for run in results.timed[name])


def _told(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f})"


Cell = Callable[[Results, str], str]
COLUMNS: Mapping[str, Cell] = {
    "whole process (fastest)": _whole,
    "of which predicting (fastest)": _predicting,
    "whole, x first": _whole_ratio,
    "predicting, x first": _predicting_ratio,
}
EXTRA: Mapping[str, Cell] = {"model at work": _busy, "predicting per file": _per_file}
MEMORY: Mapping[str, Cell] = {"peak memory": _peak}


def machine() -> str:
    """Cores, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return f"{os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, {', '.join(_versions())}"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"
