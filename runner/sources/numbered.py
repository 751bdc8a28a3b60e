"""What the sources of lake tables share: rows of data files that come with their numbers, and the columns that a source offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runner.sources.filters import filter_columns, filter_expression
from runner.sources.schemas import refuse_missing
from runner.types import Filters

if TYPE_CHECKING:
    import pyarrow as pa

NUMBER = ""  # the column with each row's number within its file

Tables = Callable[["pa.Schema"], Iterator["pa.Table"]]
"""Yields the rows of a fragment with these columns and `NUMBER`."""


def filtered(tables: Tables, names: Sequence[str], schema: pa.Schema, filters: Filters) -> Iterator[pa.Table]:
    """Yield the rows that pass the filters, with the named columns, those of the filters, and `NUMBER`."""
    import pyarrow as pa

    keep = filter_expression(filters, schema)
    wanted = pa.schema([schema.field(name) for name in dict.fromkeys([*names, *filter_columns(filters)])])
    for table in tables(wanted):
        passed = table if keep is None else table.filter(keep)
        if passed.num_rows:
            yield passed


def rows_of(tables: Tables, numbers: Sequence[int], schema: pa.Schema, whole: pa.Schema) -> pa.Table:
    """Return the rows of these numbers with all columns of `whole`, each in the type that `schema` has, if it has the column."""
    import pyarrow as pa

    wanted = pa.schema([schema.field(column.name) if column.name in schema.names else column for column in whole])
    rows = pa.array(numbers, pa.int64())
    found = (table.filter(pa.compute.is_in(table.column(NUMBER), rows)) for table in tables(wanted))
    return pa.concat_tables([wanted.empty_table(), *(each.drop_columns([NUMBER]) for each in found)])


def offered(
    there: Sequence[str], columns: Sequence[str] | None, filters: Filters, needed: Mapping[str, str] | None
) -> list[str]:
    """Return the columns that a source offers, or those of them that are needed, also by its filters.

    Raises:
        ConfigError: One is missing.
    """
    asked = {**dict.fromkeys(filter_columns(filters), "source.filters"), **(needed or {})}
    refuse_missing(dict.fromkeys(columns or (), "source.columns"), there)
    names = there if columns is None else columns
    refuse_missing(asked, names)
    return list(names if needed is None else asked)
