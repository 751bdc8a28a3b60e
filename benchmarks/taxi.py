"""Ours beside others and beside the limit, interleaved in one run: whole processes, medians, ratios.

python benchmarks/taxi.py --copies 6 --repeat 3
python benchmarks/taxi.py --copies 2 --repeat 3 --workload mlp
python benchmarks/taxi.py --only ours-tasks,limit
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
PACKAGES = ("ray", "pyarrow", "pandas", "numpy", "torch")
LONGEST = 900  # seconds, after which a program counts as hanging
OURS = "ours-tasks"  # what the others are compared with


@dataclass(frozen=True)
class Measured:
    """One program, run once.

    Attributes:
        whole: Seconds of the whole process.
        predicting: Seconds from the first call to the last answer, by the program's own account.
        rows: Predictions on disk.
    """

    whole: float
    predicting: float
    rows: int


@dataclass(frozen=True)
class Program:
    """Something to measure.

    Attributes:
        title: For the table.
        command: Arguments for Python, given input, output and workload.
        predicts: Whether it writes predictions at all.
    """

    title: str
    command: Callable[[Path, Path, str], list[str]]
    predicts: bool = True


# ---------------------------------------------------------------- what is measured


def ours(*overrides: str) -> Callable[[Path, Path, str], list[str]]:
    """The command line of a job."""

    def command(source: Path, out: Path, workload: str) -> list[str]:
        given = ["source=parquet", f"source.path={source}", f"sink.path={out}", *overrides]
        return ["-m", "runner", *given, *model_of(workload)]

    return command


def model_of(workload: str) -> list[str]:
    """Our names for the workloads of `benchmarks.common`."""
    if workload == "taxi":
        return ["model=taxi"]
    sys.path.insert(0, str(ROOT))
    from benchmarks.common import FEATURES, WORKLOADS

    columns = f"[{','.join(FEATURES)}]"
    network = ["model=torch", "model.module=benchmarks.common.network", f"model.columns={columns}"]
    size = WORKLOADS[workload].batch_size
    return [*network, f"predict.columns={columns}", "predict.input=numpy", f"batch_size={size}"]


def program(name: str) -> Callable[[Path, Path, str], list[str]]:
    """The command line of a file in programs/."""
    return lambda source, out, workload: [str(PROGRAMS / f"{name}.py"), str(source), str(out), workload]


ALL = {
    OURS: Program("ours, mode=tasks", ours("mode=tasks")),
    "ours-actors": Program("ours, mode=actors num_actors=2", ours("mode=actors", "num_actors=2")),
    "ours-inline": Program("ours, mode=inline (one process)", ours("mode=inline")),
    "classic-tasks": Program("classic Ray Core tasks, whole files", program("classic_tasks")),
    "classic-actors": Program("classic Ray Core actor pool, whole files", program("classic_actors")),
    "ray-data": Program("Ray Data", program("ray_data")),
    "bare-tasks": Program("bare Ray tasks that stream, no protocol", program("bare_tasks")),
    "limit": Program("limit: two bare processes that stream", program("limit")),
    "bare-ray": Program("Ray alone: start, one empty task, stop", program("bare_ray"), predicts=False),
}


# ---------------------------------------------------------------- measuring


def prepare(folder: Path, copies: int, limit_files: int | None) -> int:
    """Fill a folder with hard links to, or copies of, the demo's files; returns their rows."""
    from runner.sources import taxi

    taxi.ensure(taxi.folder(), print)
    files = sorted(taxi.folder().glob("*.parquet"))[:limit_files]
    folder.mkdir()
    for copy in range(copies):
        for file in files:
            link(file, folder / f"{copy:03}-{file.name}")
    return copies * sum(rows_of(file) for file in files)


def link(file: Path, name: Path) -> None:
    """A hard link, or a copy where the two lie on different file systems."""
    try:
        name.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, name)


def measure(one: Program, source: Path, scratch: Path, workload: str) -> Measured:
    """Run a program once, in a folder of its own that is deleted afterwards.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    here = Path(tempfile.mkdtemp(dir=scratch))
    try:
        started = time.perf_counter()
        said = run(one.command(source, here / "out", workload), here)
        whole = time.perf_counter() - started
        return Measured(whole, predicting_seconds(said, here / "out"), written_rows(here / "out"))
    finally:
        shutil.rmtree(here)


def run(command: Sequence[str], folder: Path) -> str:
    """Run Python with these arguments; returns what it printed.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment(), capture_output=True, text=True, timeout=LONGEST
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def environment() -> dict[str, str]:
    """Nobody's cluster, and this repository importable here and in workers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def predicting_seconds(said: str, out: Path) -> float:
    """Ours keeps it in the report, the others print it last."""
    if reports := list(out.glob("_runner/runs/*/report.json")):
        return float(json.loads(reports[0].read_text())["predicting_seconds"])
    return float(json.loads(said.splitlines()[-1])["seconds"])


def written_rows(out: Path) -> int:
    """Predictions on disk."""
    files = [file for file in out.rglob("*.parquet") if "_runner" not in file.parts]
    return sum(rows_of(file) for file in files)


def rows_of(file: Path) -> int:
    """As its footer says."""
    return int(pq.read_metadata(file).num_rows)


def interleaved(names: Sequence[str], repeat: int, one: Callable[[str], Measured]) -> Mapping[str, list[Measured]]:
    """Every program once, then every program again: what slows the machine for a while slows all of them."""
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for i in range(repeat):
        for name in names:
            found[name].append(one(name))
            latest = found[name][-1]
            print(
                f"{i + 1}/{repeat} {name}: {latest.whole:.2f} s, predicting {latest.predicting:.2f} s", file=sys.stderr
            )
    return found


def check_rows(found: Mapping[str, list[Measured]], rows: int) -> None:
    """Every program predicted every row.

    Raises:
        RuntimeError: One did not.
    """
    wrong = [
        f"{name} wrote {each.rows:,} predictions of {rows:,}"
        for name, all_of_it in found.items()
        for each in all_of_it
        if ALL[name].predicts and each.rows != rows
    ]
    if wrong:
        raise RuntimeError("; ".join(wrong))


# ---------------------------------------------------------------- telling


def table(found: Mapping[str, list[Measured]]) -> Iterator[str]:
    """Markdown: medians with the fastest beside them, and medians as multiples of the first program's."""
    base = next(iter(found.values()))
    whole, predicting = _wholes(base), _parts(base)
    yield "| program | whole process (fastest) | of which predicting (fastest) | whole, x ours | predicting, x ours |"
    yield "|---|---:|---:|---:|---:|"
    for name, times in found.items():
        ratio = f"{median(_wholes(times)) / median(whole):.2f}"
        if ALL[name].predicts:
            part = f"{median(_parts(times)) / median(predicting):.2f}"
            yield f"| {ALL[name].title} | {_told(_wholes(times))} | {_told(_parts(times))} | {ratio} | {part} |"
        else:
            yield f"| {ALL[name].title} | {_told(_wholes(times))} | - | {ratio} | - |"


def _wholes(times: Sequence[Measured]) -> list[float]:
    return [each.whole for each in times]


def _parts(times: Sequence[Measured]) -> list[float]:
    return [each.predicting for each in times]


def _told(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f})"


def machine() -> str:
    """Cores, memory and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB; Python {platform.python_version()}, {versions}"


def main() -> None:
    """Read the command line, measure, print."""
    given = read_arguments()
    names = given.only.split(",")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        rows = prepare(source, given.copies, given.limit_files)
        found = interleaved(names, given.repeat, lambda name: measure(ALL[name], source, Path(folder), given.workload))
    check_rows(found, rows)
    print(f"workload {given.workload}: {rows:,} rows, {given.copies} x 12 files at most, median of {given.repeat}")
    print(machine(), *table(found), sep="\n")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=6, help="how often the demo's 12 files are predicted")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--limit-files", type=int, help="only so many of the 12 files")
    parser.add_argument("--only", default=",".join(ALL), help=f"programs, separated by commas: {', '.join(ALL)}")
    parser.add_argument("--workload", choices=["taxi", "mlp"], default="taxi")
    return parser.parse_args()


if __name__ == "__main__":
    main()
