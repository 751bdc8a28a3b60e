"""Hive partitions: `key=value` folders as columns, and as a way to skip whole files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from runner.sources.filters import passing
from runner.types import Filters, Input

if TYPE_CHECKING:
    import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"
WIDEST = 18  # digits that surely fit 64 bits

Partition = Mapping[str, str | None]


def parse(folder: str) -> dict[str, str | None]:
    """The keys and values of a folder below the root."""
    pairs = (segment.partition("=") for segment in folder.split("/") if "=" in segment)
    return {unquote(key): None if value == NULL else unquote(value) for key, _, value in pairs}


def refuse_twice(folder: str) -> None:
    """Refuse a folder whose path gives a key two values.

    Raises:
        ValueError: Naming it.
    """
    values: dict[str, str] = {}
    for key, _, value in (segment.partition("=") for segment in folder.split("/") if "=" in segment):
        if values.setdefault(key, value) != value:
            raise ValueError(
                f"its folders give {key} two values, {values[key]} and {value}; source.partitioning=null ignores both"
            )


def column_types(folders: Iterable[str]) -> dict[str, pa.DataType]:
    """The type of each key, by all of its values: whole numbers, else strings; null if it has none."""
    import pyarrow as pa

    values: dict[str, set[str | None]] = {}
    for folder in set(folders):
        for key, value in parse(folder).items():
            values.setdefault(key, set()).add(value)
    kinds = {False: pa.string(), True: pa.int64()}
    return {
        key: kinds[all(_is_number(value) for value in there)] if (there := found - {None}) else pa.null()
        for key, found in values.items()
    }


def _is_number(value: str | None) -> bool:
    digits = (value or "").removeprefix("-")
    return digits.isdecimal() and digits.isascii() and len(digits) <= WIDEST


def typed(value: str | None, kind: pa.DataType) -> Any:
    """A value as its column holds it."""
    import pyarrow as pa

    return int(value) if value is not None and pa.types.is_integer(kind) else value


def with_partitions(schema: pa.Schema, partition: Partition, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema with a column for each key, in place of a stored one of that name."""
    import pyarrow as pa

    stored = [column for column in schema if column.name not in partition]
    return pa.schema([*stored, *(pa.field(key, types[key]) for key in partition)])


def prune(files: Sequence[Input], types: Mapping[str, pa.DataType], filters: Filters) -> list[Input]:
    """The files of which, by their partition alone, some row may pass: the exact filter itself decides."""
    folders = list(dict.fromkeys(file.folder for file in files))
    kept: set[str] = set()
    by_keys: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        by_keys.setdefault(tuple(parse(folder)), []).append(folder)
    for keys, alike in by_keys.items():
        kept.update(_passing(alike, {key: types[key] for key in keys}, filters))
    return [file for file in files if file.folder in kept]


def _passing(folders: Sequence[str], types: Mapping[str, pa.DataType], filters: Filters) -> list[str]:
    import pyarrow as pa

    rows = [{key: typed(value, types[key]) for key, value in parse(folder).items()} for folder in folders]
    return [folder for folder, passes in zip(folders, passing(rows, pa.schema(types), filters), strict=True) if passes]
