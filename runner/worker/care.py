"""How carefully a shard is predicted after it cost a worker: in a process of its own, or in smaller pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace

ALONE_AFTER = 2  # lost workers, before a shard's predictor runs in a process of its own


@dataclass(frozen=True)
class Care:
    """What earlier tries of a shard have taught.

    Attributes:
        alone: The predictor runs in a child process, because something in the shard kills its process.
        pieces: The predictor gets each batch in this many pieces, because the whole took too much memory.
    """

    alone: bool = False
    pieces: int = 1

    def after_loss(self, lost: int, *, memory: bool) -> Care:
        """The care to take after another worker was lost; `lost` counts all of them."""
        if memory:
            return replace(self, pieces=self.pieces * 2)
        return replace(self, alone=self.alone or lost >= ALONE_AFTER)


CARELESS = Care()
