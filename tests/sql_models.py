"""Models that take a database's connections away while a job reads from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from runner.databases.database import database_at, execute

Predictor = Callable[[pd.DataFrame], pd.DataFrame]
OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"


def _doubled(batch: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"twice": batch["x"] * 2})


def _end(uri: str, which: str) -> None:
    with database_at("source", uri).connect() as connection:
        execute(connection, f"SELECT pg_terminate_backend(pid) AS ended {OTHERS} {which}")


def breaking(uri: str, once: str) -> Predictor:
    """Once, all connections but the oldest one, which holds the snapshot, are ended."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if Path(once).exists() and len(batch) > 1:
            Path(once).unlink()
            oldest = f"(SELECT min(backend_start) {OTHERS})"
            _end(uri, f"AND backend_start > {oldest}")
            raise ConnectionError("the database is gone")
        return _doubled(batch)

    return predict


def ending_snapshots(uri: str) -> Predictor:
    """All connections are ended, also the one that holds the snapshot."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        _end(uri, "")
        return _doubled(batch)

    return predict
