"""Two pictures of a workload: throughput as bars, memory over time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.catalog import ALL
from benchmarks.measuring import Measured
from benchmarks.memory import Sample
from benchmarks.tables import Results, Runs

FOLDER = Path(__file__).parent
OURS, PEERS = "#2a6f97", "#b8b8b8"


def draw(workload: str, rows: int, results: Results) -> None:
    """Write `<workload>-throughput.svg` and `<workload>-memory.svg` beside this file.

    Args:
        workload: Its name.
        rows: Of its input.
        results: With memory watched.
    """
    with _picture(f"{workload}-throughput", f"{workload}: rows per second, whole process") as axes:
        _bars(axes, {name: rows / median(run.whole for run in runs) for name, runs in _predicting(results.timed)})
    with _picture(f"{workload}-memory", f"{workload}: memory of all processes in GiB, over seconds") as axes:
        for name, runs in _predicting(results.watched):
            _line(axes, name, runs[0].memory)
        axes.legend(fontsize="small")


def _predicting(runs: Runs) -> list[tuple[str, Sequence[Measured]]]:
    return [(name, found) for name, found in runs.items() if ALL[name].predicts]


def _bars(axes: Any, rates: Mapping[str, float]) -> None:
    drawn = axes.barh([ALL[name].title for name in rates], list(rates.values()), color=[_color(name) for name in rates])
    axes.bar_label(drawn, labels=[f"{rate:,.0f}" for rate in rates.values()], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _line(axes: Any, name: str, memory: Sequence[Sample]) -> None:
    seconds, sizes = [look.seconds for look in memory], [look.size / 1024**3 for look in memory]
    axes.plot(seconds, sizes, label=ALL[name].title, linestyle="solid" if _is_ours(name) else "dashed")


@contextlib.contextmanager
def _picture(name: str, title: str) -> Iterator[Any]:
    """Axes that are saved at the end, with the same bytes for the same data."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        axes = figure.add_subplot(title=title)
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


def _color(name: str) -> str:
    return OURS if _is_ours(name) else PEERS


def _is_ours(name: str) -> bool:
    return name.startswith("ours-")
