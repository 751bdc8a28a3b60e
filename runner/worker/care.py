"""How carefully a shard is predicted, after what happened to it before."""

from __future__ import annotations

from dataclasses import dataclass, replace

ALONE_AFTER = 2  # lost workers, before a shard's predictor runs in a process of its own


@dataclass(frozen=True)
class Care:
    """What earlier tries of a shard have taught.

    Attributes:
        alone: Run the predictor in a child process: something in the shard kills its process.
        pieces: Give the predictor each batch in so many pieces: the whole took too much memory.
    """

    alone: bool = False
    pieces: int = 1

    def after_loss(self, lost: int, *, memory: bool) -> Care:
        """With more care, after `lost` workers in all."""
        if memory:
            return replace(self, pieces=self.pieces * 2)
        return replace(self, alone=self.alone or lost >= ALONE_AFTER)


CARELESS = Care()
