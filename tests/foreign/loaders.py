"""Loaders of a package outside of this one, whose predictors have the optional parts."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd

from runner import Rejected


class Refused(Exception):
    """A row that the model will not predict; it cannot be pickled."""

    def __init__(self, value: int, reason: str) -> None:
        super().__init__(f"{value}: {reason}")


def refusing(rows: list[int], bad: set[int]) -> Any:
    """Twice each number; `None` and an error for the bad ones."""
    errors: dict[int, Exception] = {i: Refused(x, "not with me") for i, x in enumerate(rows) if x in bad}
    values = [None if i in errors else 2 * x for i, x in enumerate(rows)]
    return Rejected({"twice": values}, errors) if errors else {"twice": values}


class Plain:
    """`prepare` and `Rejected`, not async."""

    def __init__(self, folder: str, refused: list[int], raising: list[int], deadly: int) -> None:
        self._folder, self._refused, self._raising, self._deadly = folder, set(refused), set(raising), deadly

    def prepare(self, batch: pd.DataFrame) -> list[int]:
        if (batch["x"] == -1).any():
            raise ValueError("cannot be prepared")
        return [int(x) for x in batch["x"]]

    def predict(self, rows: list[int]) -> Any:
        assert isinstance(rows, list), "what prepare returned"
        if rows and self._folder:
            Path(self._folder, f"call-{'-'.join(map(str, rows))}.{os.getpid()}.{time.monotonic_ns()}").touch()
        if self._deadly in rows:
            os._exit(13)
        if wrong := sorted(self._raising & set(rows)):
            raise ArithmeticError(f"cannot predict {wrong[0]}")
        return refusing(rows, self._refused)

    def __call__(self, rows: list[int]) -> Any:
        return self.predict(rows)


class Awaited(Plain):
    """All parts: prepared, awaited, with a client that belongs to its loop, several calls at once."""

    def __init__(self, folder: str, refused: list[int], raising: list[int], deadly: int, concurrency: int) -> None:
        super().__init__(folder, refused, raising, deadly)
        self.concurrency = concurrency
        self._client: tuple[asyncio.AbstractEventLoop, int] | None = None
        self._inside = 0

    async def __call__(self, rows: list[int]) -> Any:
        here = asyncio.get_running_loop(), threading.get_ident()
        self._client = self._client or here
        assert self._client == here, "on the same loop and thread as before"
        self._inside += 1
        try:
            await asyncio.sleep(0.001 * (rows[0] % 3) if rows else 0)  # they end in another order than they began
            assert self._inside <= self.concurrency
            return self.predict(rows)
        finally:
            self._inside -= 1


def load(
    folder: str = "",
    refused: list[int] | None = None,
    raising: list[int] | None = None,
    deadly: int = -2,
    concurrency: int = 0,
) -> Any:
    """Doubles `x`.

    Args:
        folder: Where a file is left for each call, named by its rows.
        refused: Rows that come back rejected.
        raising: Rows that raise.
        deadly: A row that kills its process.
        concurrency: Of the calls that are awaited; 0 for a predictor that is not async.
    """
    rows = folder, refused or [], raising or [], deadly
    return Awaited(*rows, concurrency) if concurrency else Plain(*rows)


def slowly(seconds: float = 0.1) -> Any:
    """An `async def` function that takes its time, and rejects every seventh row."""

    async def predict(batch: pd.DataFrame) -> Any:
        await asyncio.sleep(seconds)
        return refusing([int(x) for x in batch["x"]], {x for x in range(1000) if x % 7 == 0})

    return predict
