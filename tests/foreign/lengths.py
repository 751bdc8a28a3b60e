"""A model loader as plain as can be: a function that returns a function of a batch."""

from __future__ import annotations

from typing import Any

from runner.types import Positive, Predictor


def load(column: str, most: Positive = 80) -> Predictor:
    """Return a predictor that scores a text by its length.

    Args:
        column: The text.
        most: Characters that score 1.
    """

    def predict(batch: Any) -> Any:  # a pandas DataFrame, unless predict.input says otherwise
        return {"score": batch[column].str.len().clip(upper=most) / most}

    return predict
