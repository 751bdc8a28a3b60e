"""The classic example's dummy model: is the number of passengers even?

    python -m runner model=taxi
    python -m runner model=taxi model.payload_bytes=100MiB

Also the shortest example of a loader: a function with typed arguments that returns a function of one batch.
`network` is a small torch module over three of the rides' columns, for `job=classic_gpu`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.types import ByteCount, Predictor

if TYPE_CHECKING:
    import pandas as pd
    import torch


def load(payload_bytes: ByteCount = 0) -> Predictor:
    """Return a predictor that scores each ride by whether its number of passengers is even.

    Args:
        payload_bytes: Size of an array of zeros that the predictor carries, so that copying it costs
            something.

    Returns:
        A function of a pandas batch with a column `passenger_count`. It returns one boolean column `score`,
        `False` where the number of passengers is not known.
    """
    import numpy as np

    payload = np.zeros(payload_bytes, dtype=np.uint8)

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        _ = payload  # used here, so that every pickled copy of this function contains it
        even = batch["passenger_count"] % 2 == 0
        # Nullable columns answer "unknown" where NumPy's say False; the score is a plain boolean either way.
        return pd.DataFrame({"score": even.fillna(False).astype(bool)})

    return predict


def network(hidden: int = 64, seed: int = 0) -> torch.nn.Module:
    """Return an untrained network that maps three numbers per ride to one; `model.module` names it.

    Args:
        hidden: Width of its hidden layer.
        seed: Seed of its random weights: the same seed gives the same network.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1))
