"""The default source: the demo's data without a path, else files in the format that their extension names."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from runner.sources.demo import Taxi
from runner.sources.files import Files
from runner.sources.formats import FormatName
from runner.types import Filters

EXTENSIONS: dict[str, FormatName] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".orc": "orc",
    ".txt": "text",
}


def choose(
    path: str | list[str] | None = None,
    format: FormatName | None = None,  # noqa: A002
    columns: list[str] | None = None,
    filters: Filters = None,
    partitioning: Literal["hive"] | None = "hive",
    storage_options: dict[str, Any] | None = None,
    allow_empty: bool = False,
    delimiter: str = ",",
    column_types: dict[str, str] | None = None,
) -> Taxi | Files:
    """Return the demo's taxi rides if there is no `path`, else files in `format`, or as their extension says, or as Parquet.

    Args:
        path: As in every source of files.
        format: How the files are read; `None` goes by the extension of the first entry of `path`.
        columns: As in every source of files.
        filters: As in every source of files.
        partitioning: As in every source of files.
        storage_options: As in every source of files.
        allow_empty: As in every source of files.
        delimiter: Of CSV.
        column_types: Of CSV.

    Raises:
        ValueError: A format was given without a path.
    """
    if path is None:
        if format is not None:
            raise ValueError(f"source.path: is required with source.format={format}")
        return Taxi(None, columns, filters, allow_empty)
    return Files(
        path,
        format or by_extension(path),
        columns,
        filters,
        partitioning,
        storage_options or {},
        allow_empty,
        delimiter,
        column_types or {},
    )


def by_extension(path: str | list[str]) -> FormatName:
    """Return the format that the first entry's extension names, also within `.csv.gz`; Parquet if it names none."""
    first = path if isinstance(path, str) else next(iter(path), "")
    suffixes = reversed(PurePosixPath(first).suffixes[-2:])
    return next((EXTENSIONS[suffix] for suffix in suffixes if suffix in EXTENSIONS), "parquet")
