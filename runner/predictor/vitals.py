"""What a worker's process costs."""

from __future__ import annotations

import mmap
from dataclasses import replace

from runner.types import Answer, Model, Receipt

COUNTERS = "/proc/self/statm"


def private_bytes() -> int | None:
    """Resident memory that this process shares with nobody; `None` where the system does not tell (it takes Linux).

    Counted by the kernel as it goes: asking costs microseconds, unlike adding up `smaps`.
    """
    try:
        with open(COUNTERS, "rb", buffering=0) as counters:
            _, resident, shared, *_ = map(int, counters.read().split())
    except OSError:
        return None
    return (resident - shared) * mmap.PAGESIZE


def with_vitals(answer: Answer, model: Model) -> Answer:
    """An answer whose receipts tell how this process bears its model."""
    if not isinstance(answer, list):
        return answer
    vitals = model.vitals()
    return [replace(each, vitals=vitals.plus(each.vitals)) if isinstance(each, Receipt) else each for each in answer]
