"""Model loaders for tests: each misbehaves, or counts, in one way. Importable in every worker."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

Predictor = Callable[[Any], Any]


def doubling(factor: int = 2) -> Predictor:
    """`twice`: the column `x` times `factor`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": batch["x"] * factor})

    return predict


def classic() -> Predictor:
    """The original example's loader, as it stands there."""

    def model(batch: pd.DataFrame) -> pd.DataFrame:
        model.payload = np.zeros(1_000)  # type: ignore[attr-defined]
        return pd.DataFrame({"score": batch["x"] % 2 == 0})

    return model


def counting(folder: str) -> Predictor:
    """Doubles, and leaves a file for each load and each call: counts cross processes."""
    Path(folder, f"load-{os.getpid()}-{time.monotonic_ns()}").touch()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        Path(folder, f"call-{os.getpid()}-{time.monotonic_ns()}").touch()
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def failing_on(value: int, unless: str = "") -> Predictor:
    """Raises for a batch that holds `value`, unless the file `unless` exists."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any() and not (unless and Path(unless).exists()):
            raise ArithmeticError(f"cannot predict {value}")
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def slow(seconds: float) -> Predictor:
    """Doubles, and takes its time."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        time.sleep(seconds)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def dying_once(flag: str, value: int) -> Predictor:
    """Takes its process down at a batch that holds `value`, the first time."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any() and not Path(flag).exists():
            Path(flag).touch()
            os._exit(13)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def raising() -> Predictor:
    """Does not load."""
    raise RuntimeError("no weights here")


def unpicklable() -> Predictor:
    """Holds a lock, which cannot be pickled."""
    lock = threading.Lock()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        with lock:
            return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def short() -> Predictor:
    """One prediction too few."""
    return lambda batch: np.zeros(len(batch) - 1)


def scalar() -> Predictor:
    """Something that cannot be predictions."""
    return lambda batch: "many"  # noqa: ARG005


def widening() -> Predictor:
    """Whole numbers first, fractions once `x` passes 10."""
    return lambda batch: pd.DataFrame(
        {"y": [v + 0.5 if v > 10 else int(v) for v in batch["x"]]}, dtype=object
    ).infer_objects()


def nothing() -> Predictor:
    """All null."""
    return lambda batch: [None] * len(batch)


def vectors() -> Predictor:
    """A scalar, a vector and a string for each row."""

    def predict(batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        return {"score": x.astype("float32"), "vector": np.stack([x, x + 1], axis=1), "label": [f"é{v}" for v in x]}

    return predict


def poisoned(values: list[int]) -> Predictor:
    """Doubles, and raises for a batch that holds any of `values`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if bad := sorted(set(values) & set(batch["x"])):
            raise ArithmeticError(f"cannot predict {bad[0]}")
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def odd() -> Predictor:
    """A whole number for every row but one."""
    return lambda batch: pd.DataFrame({"y": [v + 0.5 if v == 11 else float(v) for v in batch["x"]]})


def leaving(value: int) -> Predictor:
    """Calls `sys.exit` for one value."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any():
            sys.exit(0)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def deadly(value: int, how: str) -> Predictor:
    """Takes its process down at every batch that holds `value`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any():
            os._exit(13) if how == "exit" else os.kill(os.getpid(), signal.SIGSEGV)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def hungry(rows: int) -> Predictor:
    """Cannot hold more than `rows` rows at once."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if len(batch) > rows:
            raise MemoryError
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def counting_children() -> Predictor:
    """Predicts its process's number; dies of -1, and refuses 0."""

    def predict(batch: pd.DataFrame) -> list[int]:
        if batch["x"][0] == -1:
            os._exit(7)
        if batch["x"][0] == 0:
            raise ValueError("zero")
        return [os.getpid()] * len(batch)

    return predict


def not_a_number() -> Predictor:
    """NaN for every tenth row."""
    return lambda batch: np.where(batch["x"] % 10 == 3, np.nan, batch["x"] * 1.0)


def returning_none() -> Any:
    """Forgets to return its predictor."""


def loading_slowly(flag: str, seconds: float) -> Predictor:
    """Takes its time to load, and says when it has begun."""
    Path(flag).touch()
    time.sleep(seconds)
    return doubling()
