"""Programs as whole processes, each checked against the others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.catalog import ALL, Program
from benchmarks.memory import Sample, watched
from benchmarks.results import account, difference, predictions
from benchmarks.workloads import Workload

if TYPE_CHECKING:
    from benchmarks.results import Values

ROOT = Path(__file__).parent.parent
LONGEST = 3600  # seconds, after which a program counts as hanging


@dataclass(frozen=True)
class Measured:
    """One program, run once.

    Attributes:
        whole: Seconds of the whole process.
        predicting: Seconds from the first call to the last answer, by the program's own account.
        busy: Share of the workers' time in which the model was at work, where the program tells.
        memory: Of its processes over time, where it was watched.
    """

    whole: float
    predicting: float
    busy: float | None = None
    memory: Sequence[Sample] = ()


@dataclass
class Bench:
    """Where programs are measured.

    Attributes:
        workload: What they do.
        place: A folder or a URI that holds the input, as `in`, and takes the output.
        scratch: A local folder.
        rows: Of the input.
    """

    workload: Workload
    place: str
    scratch: Path
    rows: int
    _expected: Values | None = field(default=None, init=False)

    def measure(self, name: str, watch: bool = False) -> Measured:
        """Run a program once, in a folder of its own that is deleted afterwards.

        Args:
            name: Of the program, in the catalog.
            watch: Whether to look at its memory, which slows it a little.

        Raises:
            RuntimeError: It failed, or its predictions are not those of the programs before it.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch) as here:
            return self._measure(ALL[name], Path(here), watch)

    def _measure(self, program: Program, here: Path, watch: bool) -> Measured:
        out = f"{self.place}/{here.name}/out"
        command = program.command(f"{self.place}/in", out, self.workload)
        started = time.perf_counter()
        said, memory = run(command, here, watch)
        whole = time.perf_counter() - started
        if not program.predicts:
            return Measured(whole, whole, memory=memory)
        self._check(program, out)
        told = account(out, said)
        return Measured(whole, told["seconds"], told.get("busy"), memory)

    def _check(self, program: Program, out: str) -> None:
        found = predictions(out)
        if self._expected is None:
            self._expected = found
        wrong = difference(found, self._expected)
        if len(found) != self.rows:
            wrong = f"{len(found):,} predictions of {self.rows:,}"
        if wrong:
            raise RuntimeError(f"{program.title}: {wrong}")


def run(command: Sequence[str], folder: Path, watch: bool) -> tuple[str, list[Sample]]:
    """Run Python with these arguments.

    Returns:
        What it printed, and its memory over time if that is watched.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    with _started(command, folder) as process, watched(process.pid, watch) as memory:
        out, err = process.communicate(timeout=LONGEST)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}\n{out}\n{err}")
    return out, memory


@contextlib.contextmanager
def _started(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the context, nor do those that it started."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    except BaseException:
        _kill(process.pid)
        process.communicate()
        raise


def _kill(process: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(process)
        family = [*root.children(recursive=True), root]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=10)


def _environment() -> dict[str, str]:
    """Nobody's cluster, this repository importable here and in workers, and one thread where the environment decides."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
