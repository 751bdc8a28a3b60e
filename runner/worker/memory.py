"""How many rows a process gives its predictor at once, after memory has run out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any


@dataclass
class RowLimit:
    """What memory allows in this process.

    Attributes:
        rows: The predictor is given at most this many rows at once.
        halved: How often this number was halved since `halvings` was last called.
    """

    rows: int = sys.maxsize
    halved: int = 0

    def halve(self, rows: int) -> None:
        """Note that this many rows took too much memory, and free what they left on a GPU."""
        self.rows, self.halved = max(1, rows // 2), self.halved + 1
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def halvings(self) -> int:
        """How often `rows` was halved since this was last called."""
        count, self.halved = self.halved, 0
        return count


_limits: dict[str, RowLimit] = {}


def limit_in(run: str) -> RowLimit:
    """What this process has learnt about memory in a run. It is kept from call to call."""
    if run not in _limits:
        _limits.clear()  # another job of the sweep is over
        _limits[run] = RowLimit()
    return _limits[run]


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: the `MemoryError` of Python, NumPy and Arrow, or the errors of torch for a GPU and for the CPU."""
    kind = type(error).__name__
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
