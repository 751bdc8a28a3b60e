"""A model that does what a plan says: for each input file, the outcome of its first call, its second, ...

Calls are counted in files, so that counts cross processes: of workers, of their children, and of one run and the next.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 8  # per file, all in one batch
KILLERS_SECONDS = 20  # that the call goes on which has killed the driver
Plan = Mapping[int, Sequence[str]]


def write_input(folder: Path, files: int) -> None:
    """Files of `ROWS` consecutive numbers each: file `i` holds `x` from `i * ROWS`."""
    folder.mkdir(parents=True)
    for i in range(files):
        pq.write_table(pa.table({"x": list(range(i * ROWS, (i + 1) * ROWS))}), folder / f"{i:03}.parquet")


def write_plan(folder: Path, plan: Plan) -> None:
    """What the model is to do, call by call; `ok` once the outcomes of a file are used up."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps({str(number): list(outcomes) for number, outcomes in plan.items()}))


def calls(folder: Path) -> dict[int, int]:
    """How often the model was called with the first row of each file."""
    numbers = [int(path.name.split("-")[1]) for path in folder.glob("call-*")]
    return {number: numbers.count(number) for number in sorted(set(numbers))}


def callers(folder: Path) -> set[int]:
    """The processes in which the model was called."""
    return {int(path.read_text()) for path in folder.glob("call-*")}


def faulty(folder: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A loader, to be called on the driver: a model that doubles `x`, unless the plan in `folder` says otherwise."""
    plan, driver = json.loads(Path(folder, "plan.json").read_text()), os.getpid()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        number, row = divmod(int(batch["x"].iloc[0]), ROWS)
        if row == 0:  # what a batch is cut into afterwards does not count
            outcomes = plan.get(str(number), [])
            call = _count(Path(folder), number)
            if call < len(outcomes):
                suffer(outcomes[call], driver)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def _count(folder: Path, number: int) -> int:
    """Take the file's next call number; creating a file exclusively is atomic among processes."""
    call = 0
    while True:
        try:
            with (folder / f"call-{number}-{call}").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            call += 1
        else:
            return call


def suffer(outcome: str, driver: int) -> None:
    """Make one outcome come true in this process; `driver` is the process to kill."""
    if outcome == "raise":
        raise ArithmeticError("planned")
    if outcome == "transient":
        raise ConnectionError("planned")
    if outcome == "memory":
        raise MemoryError("planned")
    if outcome == "leave":
        sys.exit(3)
    if outcome == "exit":
        os._exit(13)
    if outcome == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if outcome == "kill driver":
        os.kill(driver, signal.SIGKILL)
    seconds = {"slow": 0.3, "kill driver": KILLERS_SECONDS, "stuck": 600}
    time.sleep(seconds.get(outcome, 0))


# ---------------------------------------------------------------- what a plan leads to


class Expected(NamedTuple):
    """What a shard costs until it is committed, however many runs that takes.

    Attributes:
        calls: Of the model with the shard's first row: one for each outcome, and the one that goes well.
        retries: Tries that a transient error has cost.
        lost: Tries that a worker's death has cost.
    """

    calls: int
    retries: int
    lost: int


def expected(outcomes: Sequence[str]) -> Expected:
    """What these outcomes lead to, if no piece gets as small as a row."""
    return Expected(len(outcomes) + 1, outcomes.count("transient"), outcomes.count("exit"))
