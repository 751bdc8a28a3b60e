"""The programs: ours in each mode, the peers, and what the machine can do at all."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.predictors import MODELS

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

    Command = Callable[[str, str, Workload], list[str]]

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Program:
    """Something to measure.

    Attributes:
        title: For the table.
        command: Arguments for Python, given input, output and workload.
        predicts: Whether it writes predictions at all.
        packages: What must be importable beyond our own dependencies.
        tools: What must be on the PATH.
    """

    title: str
    command: Command
    predicts: bool = True
    packages: Sequence[str] = ()
    tools: Sequence[str] = ()

    def missing(self) -> list[str]:
        """What it needs and is not installed."""
        return missing(self.packages) + [name for name in self.tools if shutil.which(name) is None]


def missing(packages: Sequence[str]) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def ours(*overrides: str) -> Command:
    """The command line of a job."""

    def command(source: str, out: str, workload: Workload) -> list[str]:
        paths = ["source=parquet", f"source.path={source}", f"sink.path={out}"]
        return ["-m", "runner", *paths, *MODELS[workload.model].ours, *workload.ours, *overrides]

    return command


def script(name: str) -> Command:
    """The command line of a file in programs/."""
    return lambda source, out, workload: [str(PROGRAMS / f"{name}.py"), source, out, workload.model]


ALL = {
    "ours-tasks": Program("ours, mode=tasks", ours("mode=tasks")),
    "ours-actors": Program("ours, mode=actors num_actors=2", ours("mode=actors", "num_actors=2")),
    "ours-processes": Program("ours, mode=processes mode.num_workers=2", ours("mode=processes", "mode.num_workers=2")),
    "ours-load-on-worker": Program(
        "ours, mode=processes predict.load_on=worker",
        ours("mode=processes", "mode.num_workers=2", "predict.load_on=worker"),
    ),
    "ours-inline": Program("ours, mode=inline (one process)", ours("mode=inline")),
    "ours-coalesced": Program("ours, mode=tasks, several files a shard", ours("mode=tasks", "shard_bytes=auto")),
    "classic-tasks": Program("classic Ray Core tasks, whole files", script("classic_tasks")),
    "classic-actors": Program("classic Ray Core actor pool, whole files", script("classic_actors")),
    "bare-tasks": Program("bare Ray tasks that stream, no protocol", script("bare_tasks")),
    "ray-data": Program("Ray Data", script("ray_data")),
    "daft": Program("Daft, native runner", script("daft_native"), packages=["daft"]),
    "spark": Program("Spark, predict_batch_udf", script("spark_udf"), packages=["pyspark"], tools=["java"]),
    "limit": Program("limit: two bare processes that stream", script("limit")),
    "bare-ray": Program("Ray alone: start, one empty task, stop", script("bare_ray"), predicts=False),
    "ours-help": Program("ours, --help", lambda *_: ["-m", "runner", "--help"], predicts=False),
}
