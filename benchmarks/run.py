"""Ours beside others and beside the limit, interleaved in one run: whole processes, medians, ratios.

python benchmarks/run.py --workload taxi --repeat 5
python benchmarks/run.py --workload mlp --programs ours-processes,daft,limit --pictures
python benchmarks/run.py --workload weights --files 4 --repeat 1
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.catalog import ALL, missing
from benchmarks.inputs import fill
from benchmarks.measuring import Bench, Measured
from benchmarks.pictures import draw
from benchmarks.tables import Results, machine
from benchmarks.workloads import WORKLOADS, Workload
from runner.words.plain import counted

REMEDY = "pip install -r benchmarks/requirements.txt"


def main() -> None:
    """Read the command line, measure, print."""
    given = read_arguments()
    workload = WORKLOADS[given.workload]
    require([*workload.packages, *(["matplotlib"] if given.pictures else [])])
    files = given.files or workload.files
    names, left_out = able(given.programs.split(",") if given.programs else workload.programs, workload)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = fill(folder / "in", workload.originals(folder, files), files)
        with workload.place(folder) as place:
            bench = Bench(workload, place, folder, rows)
            timed = interleaved(names, given.repeat, bench.measure)
            watched = interleaved(names, int(given.pictures), lambda name: bench.measure(name, watch=True))
    results = Results(timed, watched, files)
    print(f"workload {given.workload}: {rows:,} rows, {counted(files, 'file')}, median of {given.repeat}")
    print(machine(), *left_out, "", *results.table(workload.tells), sep="\n")
    if given.pictures:
        draw(given.workload, rows, results)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=list(WORKLOADS), default="taxi")
    parser.add_argument("--programs", help=f"by commas; the first is the measure of the others: {', '.join(ALL)}")
    parser.add_argument(
        "--files", type=int, help="of the input; as many as the workload has at full size, unless given"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pictures", action="store_true", help="run each once more, watch its memory, write SVG files")
    return parser.parse_args()


def require(packages: Sequence[str]) -> None:
    """Check that packages are there, before minutes are spent.

    Raises:
        SystemExit: Some are not.
    """
    if absent := missing(packages):
        raise SystemExit(f"{', '.join(absent)} not installed: {REMEDY}")


def able(names: Sequence[str], workload: Workload) -> tuple[list[str], list[str]]:
    """Who can do a workload here.

    Returns:
        The names of those who can, and a line about each of the others.

    Raises:
        SystemExit: There is no such program.
    """
    if unknown := [name for name in names if name not in ALL]:
        raise SystemExit(f"--programs: no {', '.join(unknown)}; there are {', '.join(ALL)}")
    obstacles = {name: obstacle for name in names if (obstacle := _obstacle(name, workload))}
    lines = [f"left out: {ALL[name].title}: {obstacle}" for name, obstacle in obstacles.items()]
    return [name for name in names if name not in obstacles], lines


def _obstacle(name: str, workload: Workload) -> str | None:
    if absent := ALL[name].missing():
        return f"{', '.join(absent)} not installed: {REMEDY}"
    return workload.cannot.get(name)


def interleaved(names: Sequence[str], repeat: int, one: Callable[[str], Measured]) -> Mapping[str, list[Measured]]:
    """Every program once, then every program again: what slows the machine for a while slows all of them."""
    found: dict[str, list[Measured]] = {}
    for i in range(repeat):
        for name in names:
            latest = one(name)
            found.setdefault(name, []).append(latest)
            print(
                f"{i + 1}/{repeat} {name}: {latest.whole:.2f} s, predicting {latest.predicting:.2f} s", file=sys.stderr
            )
    return found


if __name__ == "__main__":
    main()
