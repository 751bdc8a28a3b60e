"""A model: how far an order's amount is above a limit."""

from __future__ import annotations

from runner.types import Predictor


def load(limit: float) -> Predictor:
    """Return a predictor of the amount above the limit, as a fraction of the limit."""
    return lambda batch: {"score": (batch["amount"] - limit).clip(lower=0) / limit}
