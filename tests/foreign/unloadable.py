"""A source whose reader a worker cannot unpickle, as if its module were on the driver only."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from foreign.numbers import Counting, Numbers


class OnlyHere(Counting):
    """Comes to no other process."""

    def __reduce__(self) -> Any:
        return arrive, (os.getpid(), self.scale)


def arrive(driver: int, scale: int) -> Counting:
    """Unpickle in the process that pickled."""
    if os.getpid() != driver:
        raise ModuleNotFoundError("No module named 'ops'")
    return OnlyHere(scale)


class Unloadable(Numbers):
    """Numbers whose reader stays where it was made."""

    def reader(self, schema: pa.Schema) -> Counting:
        """What no worker can read with."""
        return OnlyHere(self.scale)
