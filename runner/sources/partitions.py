"""Hive partitions: `key=value` folders as columns, and as a way to skip whole files."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from runner.types import Filters

if TYPE_CHECKING:
    import pyarrow as pa

NULL = "__HIVE_DEFAULT_PARTITION__"

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
    "in": lambda value, values: value in values, "not in": lambda value, values: value not in values,
}  # fmt: skip


def parse(folder: str) -> dict[str, str | None]:
    """The keys and values of a folder below the root."""
    pairs = (segment.partition("=") for segment in folder.split("/") if "=" in segment)
    return {key: None if value == NULL else unquote(value) for key, _, value in pairs}


def with_partitions(schema: pa.Schema, partition: Mapping[str, str | None]) -> pa.Schema:
    """The schema with a column for each key, in place of a stored one of that name: whole numbers or strings."""
    import pyarrow as pa

    stored = [column for column in schema if column.name not in partition]
    return pa.schema([*stored, *(pa.field(key, _type(value)) for key, value in partition.items())])


def _type(value: str | None) -> pa.DataType:
    import pyarrow as pa

    if value is None:
        return pa.null()
    return pa.int64() if _is_number(value) else pa.string()


def may_match(partition: Mapping[str, str | None], filters: Filters) -> bool:
    """Whether rows of a file in this partition can pass: in some conjunction every term on a partition key holds."""
    if not filters or not partition:
        return True
    any_of = [filters] if isinstance(filters[0][0], str) else filters
    return any(all(_holds(term, partition) for term in terms) for terms in any_of)


def _holds(term: Sequence[Any], partition: Mapping[str, str | None]) -> bool:
    name, symbol, expected = term
    if name not in partition or symbol not in OPERATORS:
        return True  # for the exact filter on rows to decide
    value = partition[name]
    if value is None:
        return False  # as in SQL, a comparison with null does not hold
    try:
        return OPERATORS[symbol](*_comparable(value, expected))
    except (TypeError, ValueError):
        return True


def _comparable(value: str, expected: Any) -> tuple[Any, Any]:
    """Both sides in the type that the partition column gets, as the exact filter will compare them."""
    if isinstance(expected, bool):
        raise TypeError("a partition is a whole number or a string")
    if isinstance(expected, list | tuple | set):
        return _typed(value), [_comparable(value, each)[1] for each in expected]
    number = _is_number(value)
    return _typed(value), (int(expected) if isinstance(expected, str) else expected) if number else str(expected)


def _typed(value: str) -> int | str:
    return int(value) if _is_number(value) else value


def _is_number(value: str) -> bool:
    return value.isdecimal() and value.isascii()
