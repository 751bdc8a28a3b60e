"""Reads a Delta table from its log and its files alone: by another program than the one that wrote it, as the protocol says."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

DUCKDB = "DUCKDB_WITH_DELTA"  # a folder with `pip install --target FOLDER duckdb==1.5.5 duckdb-extension-delta==1.5.5`


class Version(NamedTuple):
    """A version of a table.

    Attributes:
        number: Of the version.
        files: The add actions of its files, by path.
        commits: Each commit up to it, as its actions.
    """

    number: int
    files: dict[str, dict[str, Any]]
    commits: list[list[dict[str, Any]]]


def version(table: Path, number: int | None = None) -> Version:
    """Replay the log; there must be no checkpoint."""
    logs = sorted((table / "_delta_log").glob("*.json"))[: None if number is None else number + 1]
    files: dict[str, dict[str, Any]] = {}
    commits = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    for commit in commits:
        for gone in (action["remove"] for action in commit if "remove" in action):
            files.pop(gone["path"], None)
        for new in (action["add"] for action in commit if "add" in action):
            files[new["path"]] = new
    return Version(len(logs) - 1, files, commits)


def rows(table: Path, number: int | None = None) -> list[dict[str, Any]]:
    """All rows, those of a file with the values of its partition; each file must hold what the log says of it."""
    return [row for file in version(table, number).files.values() for row in _rows_of(table, file)]


def _rows_of(table: Path, file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    path, told = table / file["path"], json.loads(file["stats"])
    assert path.stat().st_size == file["size"]
    found = pq.read_table(path, partitioning=None)
    assert found.num_rows == told["numRecords"]
    for name, nulls in told.get("nullCount", {}).items():
        assert not isinstance(nulls, int) or found.column(name).null_count == nulls
    _hold(found, told.get("minValues", {}), told.get("maxValues", {}))
    yield from ({**row, **file["partitionValues"]} for row in found.to_pylist())


def _hold(found: pa.Table, least: dict[str, Any], most: dict[str, Any]) -> None:
    """Hold whole numbers and texts against their statistics; times are written in several ways."""
    for name in least:
        values = [value for value in found.column(name).to_pylist() if value is not None]
        if values and isinstance(values[0], int | str):
            assert least[name] <= min(values)
            assert max(values) <= most[name]


def duckdb_is_there() -> bool:
    """Whether DuckDB's own reader can be had: its extension comes by pip, for an older DuckDB than the tests have."""
    return DUCKDB in os.environ and importlib.util.find_spec("duckdb") is not None


def by_duckdb(query: str) -> list[Any]:
    """What DuckDB answers, with its extension `delta` loaded."""
    folder = Path(os.environ[DUCKDB])
    [extension] = folder.rglob("delta.duckdb_extension")
    program = (
        "import duckdb, json, sys; db = duckdb.connect(config={'allow_unsigned_extensions': 'true'}); "
        f"db.execute(\"LOAD '{extension}'\"); print(json.dumps(db.execute(sys.argv[1]).fetchall(), default=str))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, query],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: list[Any] = json.loads(told.stdout)
    return answer
