"""How far one driver goes: 100,000 shards from plan to resume, a million files in one listing. Time, CPU and peak memory.

python benchmarks/scale.py shards --count 100000 --mode processes    # a file, a shard
python benchmarks/scale.py files --count 100000 --mode processes     # small files, coalesced to shards
python benchmarks/scale.py imagined --count 1000000                  # files of a storage that does not exist: listing and plan alone

Every phase is a process of its own. The driver's CPU is its own, not its workers'; with mode=inline it is its own worker.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from runner import plan, run  # noqa: E402

ROWS = 10  # in a file
LINKS = 10_000  # names that one file on the disk gets
FOLDER = 1_000  # imagined files in a folder
MIB = 1024**2


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        folder: Where input and output are.
        count: Files.
        mode: Who executes.
        coalesced: Whether small files share shards.
    """

    folder: str
    count: int
    mode: str
    coalesced: bool = False

    @property
    def out(self) -> Path:
        """The sink."""
        return Path(self.folder, "out")

    def config(self) -> dict[str, Any]:
        """Of the job."""
        workers = {"mode.num_workers": 2} if self.mode == "processes" else {}
        return {"source": "parquet", "source.path": f"{self.folder}/in", "sink.path": str(self.out), "mode": self.mode,
                "predict.input": "numpy", "predict.columns": ["x"], "batch_size": 1024,
                "shard_bytes": "auto" if self.coalesced else None, **workers}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a phase took of its process.

    Attributes:
        wall: Seconds.
        cpu: Seconds, without those of child processes.
        peak: Bytes of resident memory, at most.
        done: Parts committed, or whatever the phase counts.
    """

    wall: float
    cpu: float
    peak: int
    done: int


# ---------------------------------------------------------------- phases, each in a process of its own


def twice(batch: Mapping[str, Any]) -> Any:
    """Next to no model."""
    return {"twice": batch["x"] * 2}


def planning(case: Case) -> int:
    """`action=plan`."""
    return len(plan(case.config(), model=twice)) and case.count


def running(case: Case) -> int:
    """The job, or what is left of it."""
    return run(case.config(), model=twice).committed


def listing(case: Case) -> int:
    """The imagined files, listed and coalesced, and their plan written."""
    from runner.driver.planning import LARGEST_SHARD, make_shards
    from runner.ledger.records import plan_file
    from runner.sources.listing import list_files
    from runner.types import Fragment

    fsspec.register_implementation("imagined", Imagined)
    fragments = [Fragment(file, file.size) for file in list_files(["imagined://root"], {"count": case.count})]
    Path(case.folder, "plan").write_bytes(plan_file(make_shards(fragments, LARGEST_SHARD)))
    return len(fragments)


def reading(case: Case) -> int:
    """Their plan read, as a resumed job would."""
    from runner.ledger.records import plan_of

    return sum(len(shard.fragments) for shard in plan_of(Path(case.folder, "plan").read_bytes()))


def measured(phase: Callable[[Case], int], case: Case) -> Cost:
    """Do it here."""
    started, cpu = time.perf_counter(), time.process_time()
    done = phase(case)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(time.perf_counter() - started, time.process_time() - cpu, peak, done)


def apart(phase: Callable[[Case], int], case: Case) -> Cost:
    """Do it in a process of its own."""
    command = [sys.executable, __file__, "--phase", phase.__name__, json.dumps(vars(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{phase.__name__}: {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


PHASES = {phase.__name__: phase for phase in (planning, running, listing, reading)}


# ---------------------------------------------------------------- input


def make_files(folder: Path, count: int) -> None:
    """Small Parquet files; many are names of one."""
    folder.mkdir(parents=True)
    for number in range(count):
        if number % LINKS == 0:
            first = folder / f"{number:07}.parquet"
            pq.write_table(pa.table({"x": range(ROWS)}), first)
        else:
            (folder / f"{number:07}.parquet").hardlink_to(first)


class Imagined(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A storage of many small files, a thousand to a folder, that tells as much about each as S3 does."""

    protocol = "imagined"

    def __init__(self, count: int, **options: Any) -> None:
        """So many files."""
        super().__init__(**options)
        self._count = count

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ARG002
        """A folder."""
        path = self._strip_protocol(path)
        if path == "root":
            return [{"name": f"root/{i:05}", "type": "directory", "size": 0} for i in range(-(-self._count // FOLDER))]
        first = int(path.rpartition("/")[2]) * FOLDER
        return [_told(f"{path}/{i:09}.parquet", i) for i in range(first, min(first + FOLDER, self._count))]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Only the root is asked for."""
        return {"name": self._strip_protocol(path), "type": "directory", "size": 0}


def _told(name: str, number: int) -> dict[str, Any]:
    return {"Key": name, "name": name, "type": "file", "Size": 20_000, "size": 20_000, "ETag": f'"{number:032x}"',
            "LastModified": time.localtime(number), "StorageClass": "STANDARD", "ChecksumAlgorithm": ["CRC64NVME"]}  # fmt: skip


# ---------------------------------------------------------------- the story


def story(case: Case) -> Iterator[tuple[str, Cost]]:
    """A job from its plan to its resume, each step with its cost."""
    yield "plan", apart(planning, case)
    yield "run", apart(running, case)
    yield "again: nothing to do", apart(running, case)
    (case.out / "_SUCCESS").unlink()
    yield "again: all parts there, only the end is missing", apart(running, case)
    (case.out / "_SUCCESS").unlink()
    for part in sorted(case.out.glob("part-*"))[::2]:
        part.unlink()
    yield "again: half of the parts there", apart(running, case)


def imagined_story(case: Case) -> Iterator[tuple[str, Cost]]:
    """A listing and its plan."""
    yield "list, coalesce, write the plan", apart(listing, case)
    yield "read the plan", apart(reading, case)


def row(name: str, cost: Cost, base: Cost, case: Case) -> str:
    """For the table."""
    per = f"{1000 * cost.cpu / case.count:.3f} ms | {cost.peak / MIB:,.0f} MiB | {(cost.peak - base.peak) / case.count:,.0f} B"
    return f"| {name} | {cost.done:,} | {cost.wall:.1f} s | {cost.cpu:.1f} s | {per} |"


def tell(kind: str, count: int, mode: str, parent: str | None) -> None:
    """Measure and print; the small case beforehand tells what any job needs."""
    told = imagined_story if kind == "imagined" else story
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        cases = [Case(f"{folder}/{n}", n, mode, coalesced=kind == "files") for n in (1, count)]
        for case in cases:
            make_files(Path(case.folder, "in"), 0 if kind == "imagined" else case.count)
        base = apart(listing if kind == "imagined" else running, cases[0])
        print(f"{kind}: {count:,} files, mode={mode}; a job of one takes {base.peak / MIB:,.0f} MiB\n")
        print("| phase | done | wall | driver's CPU | per file | peak memory | per file, beyond a job of one |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for name, cost in told(cases[1]):
            print(row(name, cost, base, cases[1]), flush=True)


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["--phase"]:
        print(json.dumps(vars(measured(PHASES[sys.argv[2]], Case(**json.loads(sys.argv[3]))))), flush=True)
        os._exit(0)  # not even the time it takes to let go of a million objects
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["shards", "files", "imagined"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--mode", default="processes")
    parser.add_argument("--folder", help="where to make input and output; they are deleted afterwards")
    given = parser.parse_args()
    tell(given.kind, given.count, given.mode, given.folder)


if __name__ == "__main__":
    main()
