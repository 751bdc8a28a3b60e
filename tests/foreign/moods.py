"""A model that prepares its batches, and refuses rows that it knows nothing about."""

from __future__ import annotations

from typing import Any

from runner import Rejected

KNOWN = {"good": 1.0, "fine": 0.5, "bad": -1.0}


class Moods:
    """Scores a text by the words in it that the model knows."""

    def __init__(self, column: str) -> None:
        """Take the column of the text."""
        self._column = column

    def prepare(self, batch: Any) -> list[list[float]]:
        """What the model needs of a batch: for each text the scores of its known words."""
        return [[KNOWN[word] for word in text.lower().split() if word in KNOWN] for text in batch[self._column]]

    def __call__(self, scores: list[list[float]]) -> Rejected:
        """Take what `prepare` returned, and return a value for each row; a row without a known word is rejected."""
        values = [sum(each) / len(each) if each else None for each in scores]
        errors = {row: ValueError("no word that the model knows") for row, each in enumerate(scores) if not each}
        return Rejected({"mood": values}, errors)


def load(column: str) -> Moods:
    """Return a predictor of the mood of a text in this column."""
    return Moods(column)
