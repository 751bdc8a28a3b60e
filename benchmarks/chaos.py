"""Jobs under random kills, storage faults and poison rows: restarted until complete, then held against an undisturbed run.

python benchmarks/chaos.py --seeds 50 --shards 300
python benchmarks/chaos.py --seeds 20 --shards 60 --people                # drivers stopped and taken over, wrong overwrites
python benchmarks/chaos.py --seeds 20 --shards 60 --sink sql              # into PostgreSQL, whose server is killed as well
python benchmarks/chaos.py --first 7 --seeds 1 --modes actors --keep      # one seed again; timing is never the same twice

Prints a line per seed and the totals; ends with 1 if a row was lost or doubled or anything differs. Minutes, not for CI.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from chaos_sinks import InDelta, InFolder, InPostgres, Place
from fsspec.implementations.local import LocalFileSystem

if TYPE_CHECKING:
    import pandas as pd

HERE = Path(__file__).parent
ROWS = 20  # per shard
BATCH = 8
FAULTS = "CHAOS_FAULTS"  # probability that one operation of the storage fails
TALLY = "CHAOS_TALLY"  # a file with one byte per fault
CALM = "CHAOS_CALM"  # set: deadly rows only raise, and a batch takes no time
WORKERS = ("ray::IDLE", "ray::execute", "ray::_Predictor")  # and not Ray's agents, without which its daemon ends
MOST_STARTS = 40
DISTURBED_STARTS = 2  # after so many, the driver is left alone
LONGEST = 240.0  # seconds of one start, after which it counts as hanging


# ---------------------------------------------------------------- in the job's processes


def load(
    raising: list[int], deadly: list[int], seconds: float, factor: int = 3
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A model that takes `seconds` per batch, raises for some ids, and takes its process down for others."""
    calm = CALM in os.environ

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        time.sleep(0 if calm else seconds)
        ids = set(batch["id"])
        if not calm and ids & set(deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        if bad := ids & {*raising, *deadly}:
            raise ArithmeticError(f"cannot predict {min(bad)}")
        return batch[["id"]].mul(factor).rename(columns={"id": "thrice"})

    return predict


def trip() -> None:
    """Fail now and then, as storage does."""
    if random.random() < float(os.environ.get(FAULTS, "0")):
        with Path(os.environ[TALLY]).open("ab") as tally:
            tally.write(b".")
        raise random.choice([ConnectionResetError("chaos"), TimeoutError("chaos"), OSError(errno.EIO, "chaos")])


class FlakyFile:
    """A file that fails at some write."""

    def __init__(self, file: Any) -> None:
        """Wrap an open file."""
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> FlakyFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: Any) -> Any:
        """Write, or fail."""
        trip()
        return self._file.write(data)


class FlakyDisk(LocalFileSystem):  # type: ignore[misc]
    """The local disk with faults; takes the place of fsspec's own."""

    def open(self, path: str, mode: str = "rb", **more: Any) -> Any:
        """Open, or fail."""
        trip()
        file = super().open(path, mode, **more)
        return file if mode.startswith("r") else FlakyFile(file)

    def ls(self, path: str, detail: bool = False, **more: Any) -> Any:
        """List, or fail."""
        trip()
        return super().ls(path, detail, **more)

    def mv(self, path1: str, path2: str, **more: Any) -> None:
        """Move, or fail before it or after it."""
        trip()
        super().mv(path1, path2, **more)
        trip()


class Remote(FlakyDisk):
    """The same under a protocol of its own: taken for a remote storage, with rename by `mv`."""

    protocol = "chaos"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(path.removeprefix("chaos://") if isinstance(path, str) else path)


def install(folder: Path) -> None:
    """Make every process that has the folder on its path use the flaky storage."""
    entry = folder / "chaos-0.dist-info"
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos\nVersion: 0\n")
    (entry / "entry_points.txt").write_text(
        "[fsspec.specs]\nfile = chaos:FlakyDisk\nlocal = chaos:FlakyDisk\nchaos = chaos:Remote\n"
    )


# ---------------------------------------------------------------- one seed


@dataclass
class Seed:
    """One job: what it is made of, and what happened to it.

    Attributes:
        number: Of the random choices.
        mode: Who executes the disturbed runs.
        shards: Input files.
        place: Its folder.
        sink: Where it writes.
        counts: Kills by kind, starts, exit codes, faults, and what was found at the end.
    """

    number: int
    mode: str
    shards: int
    place: Path
    sink: Place
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Choose the poison rows."""
        self.random = random.Random(self.number)
        chosen = self.random.sample(range(self.rows), 5)
        self.raising, self.deadly = (chosen, []) if self.mode == "inline" else (chosen[:3], chosen[3:])

    @property
    def rows(self) -> int:
        """In all files."""
        return self.shards * ROWS

    def command(self, sink: str, *more: str) -> list[str]:
        """The job, as it is typed each time."""
        return [
            sys.executable, "-m", "runner", "source=parquet", f"source.path=chaos://{self.place / 'in'}", "model=custom",
            "model._target_=chaos.load", f"model.raising={self.raising}", f"model.deadly={self.deadly}",
            "model.seconds=0.015", f"batch_size={BATCH}", "shard_bytes=null", "sink.keep_columns=[id]",
            "predict.columns=[id]", "errors=quarantine", "errors.max_bad_rows=5", *self.sink.arguments(sink), *more,
        ]  # fmt: skip

    def environment(self, *, faults: float = 0.0) -> dict[str, str]:
        """With the flaky storage, whose faults are off unless a probability is given."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        given = {
            FAULTS: str(faults),
            TALLY: str(self.place / "faults"),
            "PYTHONUNBUFFERED": "1",
            **self.sink.environment(),
        }
        return {**kept, **given, "PYTHONPATH": os.pathsep.join(map(str, [HERE.parent, HERE, self.place / "site"]))}

    def prepare(self) -> None:
        """Write the input."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        install(self.place / "site")
        (self.place / "in").mkdir()
        for i in range(self.shards):
            ids = list(range(i * ROWS, (i + 1) * ROWS))
            pq.write_table(
                pa.table({"id": ids, "text": [f"row {each}" for each in ids]}), self.place / f"in/{i:05}.parquet"
            )

    def calm(self) -> None:
        """The undisturbed run, in one process, where deadly rows only raise: the same fingerprint, the same parts."""
        environment = {**self.environment(), CALM: "1"}
        command = self.command("calm", "mode=inline", f"hydra.run.dir={self.place / 'hydra'}")
        subprocess.run(command, cwd=self.place, env=environment, check=True, capture_output=True)

    def verify(self) -> int:
        """What `action=verify` says."""
        command = self.command("out", "mode=inline", "action=verify", f"hydra.run.dir={self.place / 'hydra'}")
        done = subprocess.run(
            command, cwd=self.place, env=self.environment(), capture_output=True, text=True, check=False
        )
        with (self.place / "log").open("a") as log:
            log.write(f"\n--- verify: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode


def disturbed(seed: Seed, faults: float, *more: str) -> bool:
    """Start the job again and again while things go wrong; whether it was complete in the end."""
    for start in range(MOST_STARTS):
        seed.counts["starts"] += 1
        seed.counts["resumes"] += start > 0
        daemons = seed.counts["killed raylet"]
        spare = {"spare_driver": start >= DISTURBED_STARTS, "spare_workers": start >= 2 * DISTURBED_STARTS}
        code = _start(seed, faults, *more, **spare)
        without_daemon = code == 1 and seed.counts["killed raylet"] > daemons  # Ray ends a driver whose daemon is gone
        seed.counts[f"exit {code}" + " without Ray" * without_daemon] += 1
        if code == 0:
            return True
    return False


def _start(seed: Seed, faults: float, *more: str, spare_driver: bool, spare_workers: bool) -> int:
    """One start of the driver, watched and disturbed until it ends."""
    with (seed.place / "log").open("a") as log:
        log.write(f"\n--- start {seed.counts['starts']}\n")
        log.flush()
        driver = subprocess.Popen(
            seed.command("out", f"mode={seed.mode}", f"hydra.run.dir={seed.place / 'hydra'}", *more),
            cwd=seed.place, env=seed.environment(faults=faults), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    began = time.monotonic()
    due = _driver_falls(seed, spare_driver)
    next_worker, next_server = began + seed.random.expovariate(0.25), began + seed.random.expovariate(0.15)
    while driver.poll() is None:
        now = time.monotonic()
        if now - began > LONGEST:
            seed.counts["hung"] += 1
            driver.kill()
        elif due(now - began):
            driver.kill()
            driver.wait()
            seed.counts["killed driver"] += 1
        elif now > next_worker and seed.mode != "inline" and not spare_workers:
            _kill_workers(seed, driver.pid)
            next_worker = now + seed.random.expovariate(0.4)
        elif now > next_server and not spare_workers:
            if killed := seed.sink.disturb():
                seed.counts[f"killed {killed}"] += 1
            next_server = time.monotonic() + seed.random.expovariate(0.15)
        time.sleep(0.02)
    return driver.wait()


def _driver_falls(seed: Seed, spare: bool) -> Callable[[float], bool]:
    """When the driver is killed in this start: at a random moment, or at a random number of further parts."""
    if spare or seed.random.random() < 0.15:
        return lambda _: False
    if seed.random.random() < 0.25:
        moment = seed.random.uniform(0.3, 2.0 if seed.mode == "inline" else 8.0)
        return lambda seconds: seconds > moment
    target = seed.sink.parts() + seed.random.randint(1, max(1, (seed.shards - seed.sink.parts()) * 2 // 3))
    return lambda _: seed.sink.parts() >= target


def _kill_workers(seed: Seed, driver: int) -> None:
    """SIGKILL a worker, sometimes all at once, the child that a worker runs a predictor in, or Ray's own daemon."""
    kind = seed.random.choice(["worker"] * 6 + ["all workers"] * 2 + ["child"] * 3 + ["raylet"])
    found = list(_processes(driver, kind))
    if found:
        seed.counts[f"killed {kind}"] += 1
    for process in found if kind == "all workers" else [seed.random.choice(found)] if found else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _processes(driver: int, kind: str) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(driver).children(recursive=True)
        if kind == "raylet":
            yield from (each for each in below if each.name() == "raylet" and each.status() != psutil.STATUS_ZOMBIE)
            return
        workers = [each for each in below if _is_worker(each)]
        yield from workers if kind != "child" else (child for each in workers for child in each.children())


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        return bool(command) and (command[0].startswith(WORKERS) or "runner.modes.serve" in command)
    return False


# ---------------------------------------------------------------- what people do

TYPOS = (
    ["sink.keep_columns=[idd]"], ["predict.columns=[it]"], ["errors.skip_files=[nothing.parquet]"], ["model.factr=5"],
    ["source.path=nowhere"], ["source.path=nowhere", "source.allow_empty=true"], ["predict.output_schema={tripled: int64}"],
    ["model._target_=chaos.lode"], ["model.raising=null"],
)  # fmt: skip


def stopped_and_taken_over(seed: Seed) -> None:
    """Stop a driver of another model with all its processes, replace its output, and let it go on beside that."""
    driver = _popen(seed, f"mode={seed.mode}", "model.factor=7")
    target = seed.random.randint(1, max(2, seed.shards // 2))
    while driver.poll() is None and seed.sink.parts() < target:
        time.sleep(0.02)
    family = _family(driver.pid)
    _signal(family, signal.SIGSTOP)
    mark = seed.place / "out/_runner/mark.json"
    if mark.exists():  # as after a minute without a refresh
        mark.write_text(re.sub(r'"refreshed": [\d.e+]+', '"refreshed": 0', mark.read_text()))
    other = _popen(seed, "mode=inline", "sink.save_mode=overwrite")
    time.sleep(seed.random.uniform(0.0, 6.0))
    _signal(family, signal.SIGCONT)
    codes = driver.wait(LONGEST), other.wait(LONGEST)
    seed.counts.update({"stopped driver": 1, f"stopped driver's exit {codes[0]}": 1, f"other's exit {codes[1]}": 1})


def wrong_overwrites(seed: Seed) -> None:
    """Ask for an overwrite of the complete output by mistake: nothing of it may change."""
    before = seed.sink.digests("out")
    for typo in seed.random.sample(TYPOS, 4):
        code = _popen(seed, "mode=inline", "sink.save_mode=overwrite", *typo).wait(LONGEST)
        there = (seed.place / "out/_SUCCESS").exists() and seed.sink.digests("out") == before
        seed.counts.update({"wrong overwrites": 1, "spoilt by a mistake": int(code == 0 or not there)})


def _popen(seed: Seed, *more: str) -> subprocess.Popen[bytes]:
    with (seed.place / "log").open("a") as log:
        log.write(f"\n--- {' '.join(more)}\n")
        log.flush()
        return subprocess.Popen(
            seed.command("out", f"hydra.run.dir={seed.place / 'hydra'}", *more),
            cwd=seed.place, env=seed.environment(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _family(driver: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]
    return []


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


# ---------------------------------------------------------------- what must be true in the end


def judge(seed: Seed) -> None:
    """Count rows lost and doubled, rows put aside wrongly, and parts that differ from the undisturbed run."""
    predicted, aside = Counter(seed.sink.predicted()), Counter(seed.sink.aside())
    found, bad = predicted + aside, {*seed.raising, *seed.deadly}
    ours, theirs = seed.sink.digests("out"), seed.sink.digests("calm")
    seed.counts.update(
        {
            "rows lost": sum(found[row] == 0 for row in range(seed.rows)),
            "rows doubled": sum(count > 1 for count in found.values()),
            "rows misplaced": len(set(aside) ^ bad),
            "parts that differ": sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys()),
        }
    )


WRONG = (
    "rows lost",
    "rows doubled",
    "rows misplaced",
    "parts that differ",
    "incomplete",
    "hung",
    "verify refused",
    "spoilt by a mistake",
    "exit 1",
    "exit 2",
)


def wrong(counts: Counter[str]) -> list[str]:
    """What must not be."""
    return [f"{counts[name]} {name}" for name in WRONG if counts[name]]


def executed(seed: Seed, faults: float, *, people: bool = False) -> None:
    """One seed from its input to its verdict."""
    started = time.monotonic()
    seed.prepare()
    seed.calm()
    if people:
        stopped_and_taken_over(seed)
    seed.counts["incomplete"] = int(not disturbed(seed, faults, *(["sink.save_mode=overwrite"] if people else [])))
    if people:
        wrong_overwrites(seed)
    tally = seed.place / "faults"
    seed.counts["storage faults"] = tally.stat().st_size if tally.exists() else 0
    seed.counts["verify refused"] = int(seed.verify() != 0)
    judge(seed)
    seed.counts["seconds"] = round(time.monotonic() - started)


def told(counts: Counter[str]) -> str:
    """Kills by kind and the rest, then the four numbers that must be 0."""
    shown = [f"{name} {count}" for name, count in sorted(counts.items()) if count and name not in WRONG]
    return f"{', '.join(shown)} | {', '.join(f'{name} {counts[name]}' for name in WRONG[:4])}" + (
        f" | WRONG: {', '.join(wrong(counts))}" if wrong(counts) else ""
    )


def main() -> int:
    """Run the seeds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="the first seed's number")
    parser.add_argument("--shards", type=int, default=300)
    parser.add_argument(
        "--modes", default="tasks,actors,processes,inline", help="taken in turn: tasks, actors, processes, inline"
    )
    parser.add_argument(
        "--faults", type=float, default=0.0015, help="probability that an operation of the storage fails"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further seed after this long")
    parser.add_argument("--keep", action="store_true", help="keep every seed's folder, not only those that went wrong")
    parser.add_argument(
        "--sink", choices=["files", "delta", "sql"], default="files", help="sql: a PostgreSQL server of its own"
    )
    parser.add_argument("--people", action="store_true", help="stop drivers and take them over; overwrite by mistake")
    given = parser.parse_args()
    if given.people and given.sink != "files":
        parser.error("--people is about files")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_server()) if given.sink == "sql" else None
        return _all_seeds(given, server)


@contextlib.contextmanager
def _server() -> Iterator[Any]:
    from postgres import postgres_server

    with postgres_server() as server:
        yield server


def _all_seeds(given: argparse.Namespace, server: Any) -> int:
    total, began, modes = Counter[str](), time.monotonic(), given.modes.split(",")
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    for number in range(given.first, given.first + given.seeds):
        if time.monotonic() - began > 60 * given.minutes:
            break
        mode, place = modes[(number // 2) % len(modes)], root / str(number)
        sink = _place(given.sink, place, number, server)
        seed = Seed(number, mode, given.shards, place, sink)
        executed(seed, given.faults, people=given.people)
        total += seed.counts + Counter({"seeds": 1})
        print(f"seed {number} {mode} {_kind(sink)}: {told(seed.counts)}", flush=True)
        if wrong(seed.counts):
            print(f"  see {seed.place}", flush=True)
        elif not given.keep:
            shutil.rmtree(seed.place)
    print(f"total: {told(total)}")
    return 1 if wrong(total) else 0


def _place(kind: str, place: Path, number: int, server: Any) -> Place:
    if kind == "delta":
        return InDelta(place)
    return InPostgres(server, f"seed_{number}") if server else InFolder(place, remote=bool(number % 2))


def _kind(sink: Place) -> str:
    if isinstance(sink, InDelta):
        return "delta"
    return ("remote" if sink.remote else "disk") if isinstance(sink, InFolder) else "postgresql"


if __name__ == "__main__":
    sys.exit(main())
