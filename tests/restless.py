"""Model loaders for tests, whose predictors start processes, threads and event loops, or talk a lot. Importable in every worker."""

from __future__ import annotations

import asyncio
import builtins
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

Predictor = Callable[[Any], Any]


def _double(x: int) -> int:
    return 2 * x


def _with_pool(xs: list[int]) -> list[int]:
    with multiprocessing.get_context("fork").Pool(2) as pool:  # leaving it sends SIGTERM
        return pool.map(_double, xs)


def _with_executor(xs: list[int]) -> list[int]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as executor:
        return list(executor.map(_double, xs))


def _with_processes(xs: list[int]) -> list[int]:
    program = subprocess.Popen(["sleep", "600"])
    fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    fork.start()
    program.terminate()
    fork.terminate()
    assert program.wait(60) == -signal.SIGTERM
    fork.join(60)
    assert fork.exitcode == -signal.SIGTERM
    return [2 * x for x in xs]


def _with_loop(xs: list[int]) -> list[int]:
    async def double() -> list[int]:
        await asyncio.sleep(0)
        return [2 * x for x in xs]

    return asyncio.run(double())


STARTING = {each.__name__: each for each in (_with_pool, _with_executor, _with_processes, _with_loop)}


def starting(how: str) -> Predictor:
    """Doubles with the help of processes, or of an event loop."""
    return lambda batch: {"twice": STARTING[how]([int(x) for x in batch["x"]])}


def leaving_behind(what: str, flag: str = "") -> Predictor:
    """Doubles, and leaves a thread or a process that never ends."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if what == "thread":
            threading.Thread(target=time.sleep, args=(600,)).start()
        elif what == "fork":
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
        elif what == "program":
            with Path(flag).open("a") as file:
                file.write(f"{subprocess.Popen(['sleep', '600']).pid}\n")
        elif what == "fork and die":
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
            os._exit(3)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def talking(odd: str = "") -> Predictor:
    """Doubles, and says a lot by every way there is."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        for stream in (sys.stdout, sys.stderr):
            print("x" * 100_000, odd and "\udcff", file=stream, flush=True)
        warnings.warn("a warning of the predictor's", stacklevel=1)
        logging.getLogger("talking").error("a line of the predictor's")
        return pd.DataFrame({"twice": batch["x"] * 2})

    logging.basicConfig()
    return predict


CODES: dict[str, int] = {}


def _looked_up(name: str) -> int:
    return CODES[name]


def _encoded(x: int) -> int:
    return _looked_up(f"nope{x}")


def _chained() -> None:
    try:
        CODES["nope"]
    except KeyError as error:
        outer = ValueError("no such customer")
        outer.add_note("looked for in the year's table")
        raise outer from error


def troubled_by_itself(_: Any) -> int:
    """Fails, in whatever process."""
    return _encoded(1)


def troubled(how: str) -> Predictor:
    """Goes wrong in one way."""
    if how == "load":
        _encoded(0)

    def predict(batch: pd.DataFrame) -> Any:
        count = len(batch)
        if how == "deep":
            return {"twice": [_encoded(x) for x in batch["x"]]}
        if how == "chained":
            _chained()
        if how == "in a library":
            return pd.DataFrame({"a": [1]})["zz"]
        if how == "odd" and (batch["x"] % 2).any():
            raise ValueError("odd")
        if how == "huge" and (batch["x"] == 3).any():
            raise ValueError("\x1b[2J" + "y" * 5_000_000)
        if how in ("KeyboardInterrupt", "SystemExit", "GeneratorExit", "CancelledError"):
            raise {**vars(builtins), "CancelledError": asyncio.CancelledError}[how]
        if how == "after 9999":
            seconds = [*[0] * (count - 1), 10**12 if (batch["x"] == 9).any() else 0]
            return pa.table({"fine": range(count), "when": pa.array(seconds, pa.timestamp("s"))})
        if how == "run-end-encoded":
            return pa.table({"twice": pa.RunEndEncodedArray.from_arrays(pa.array([count], pa.int32()), pa.array([1]))})
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict
