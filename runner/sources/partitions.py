"""Turns Hive partitions (`key=value` folders) into columns, and skips the files whose partition no filter lets pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from runner.sources.filters import passing
from runner.types import Filters, Input

if TYPE_CHECKING:
    import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"
WIDEST = 18  # digits of a whole number that always fits 64 bits

Partition = Mapping[str, str | None]


def parse(folder: str) -> dict[str, str | None]:
    """Return the keys and values of a folder below the root; `None` is Hive's null."""
    pairs = (segment.partition("=") for segment in folder.split("/") if "=" in segment)
    return {unquote(key): None if value == NULL else unquote(value) for key, _, value in pairs}


def refuse_twice(folder: str) -> None:
    """Raise an error if the path of a folder gives a key two values.

    Raises:
        ValueError: It does; the message names the key.
    """
    values: dict[str, str] = {}
    for key, _, value in (segment.partition("=") for segment in folder.split("/") if "=" in segment):
        if values.setdefault(key, value) != value:
            raise ValueError(
                f"its folders give {key} two values, {values[key]} and {value}; source.partitioning=null ignores both"
            )


def column_types(folders: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the type of each key: `int64` if all of its values are whole numbers, else string; null if it has no value."""
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
    """Return a value in the type of its column."""
    import pyarrow as pa

    return int(value) if value is not None and pa.types.is_integer(kind) else value


def with_partitions(schema: pa.Schema, partition: Partition, types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Return the schema with a column for each key. It replaces a stored column of the same name."""
    import pyarrow as pa

    stored = [column for column in schema if column.name not in partition]
    return pa.schema([*stored, *(pa.field(key, types[key]) for key in partition)])


def prune(files: Sequence[Input], types: Mapping[str, pa.DataType], filters: Filters) -> list[Input]:
    """Return the files in which a row may pass the filters, by their partition alone; rows are filtered exactly when they are read."""
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
