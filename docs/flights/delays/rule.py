"""A loader of one's own: any importable function that returns a function of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd


def load(after: int = 1700, carriers: list[str] | None = None) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A rule of thumb, to compare the trained model with: evening flights are late.

    Args:
        after: Scheduled departure, as hour * 100 + minute.
        carriers: Carriers that are late at any time of the day.
    """

    def predict(flights: pd.DataFrame) -> pd.DataFrame:
        evening = flights["sched_dep_time"] >= after
        return pd.DataFrame({"late": evening | flights["carrier"].isin(carriers or [])})

    return predict
