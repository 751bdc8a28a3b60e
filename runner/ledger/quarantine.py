"""Rows that cannot be predicted: the file that they go to, whole and with their errors, and how many are allowed.

A quarantine file is published before the part of its shard, and that part commits both.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.arrow.schemas import plain_type
from runner.sinks.formats import in_json
from runner.types import RAW, Fragment, Reader, Shard, Store, Unreadable, Written
from runner.words import exceptions
from runner.words.secrets import hide

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "_runner/quarantine/"
FIRST_CHECK = 10_000  # rows before a fraction means anything
ADDED = ("_source", "_row", "_error_type", "_error")


class UnreadableRow(ValueError):
    """A row of a text file cannot be parsed."""


class BadRow(NamedTuple):
    """A row that cannot be predicted.

    Attributes:
        fragment: Where it lies.
        number: Its row number within the file, from 0.
        error: Why.
        text: As it stands in the file, where it cannot even be parsed.
    """

    fragment: Fragment
    number: int
    error: Exception
    text: str | None = None

    def describe(self, *, placed: bool = False) -> str:
        """The row and its error for people. With `placed`, also the place in the user's code that raised the error."""
        if self.text is not None:
            return exceptions.clipped(f"{self.fragment.input.name} {self.error}")
        place = f" ({found})" if placed and (found := exceptions.innermost_frame(self.error)) else ""
        return f"{hide(self.fragment.input.name)} row {self.number}: {exceptions.describe(self.error)}{place}"


def unreadable(fragment: Fragment, row: Unreadable) -> BadRow:
    """A row that cannot be parsed, as a bad row."""
    return BadRow(fragment, row.number, UnreadableRow(row.reason), row.text)


@dataclass(frozen=True)
class Budget:
    """How many bad rows are allowed.

    Attributes:
        limit: `errors.max_bad_rows`: a count, or a fraction of the rows seen.
    """

    limit: int | float

    def passed(self, bad: int, seen: int, *, final: bool = False) -> bool:
        """Whether `bad` of `seen` rows are too many. A fraction counts of 10,000 rows at least, until the end."""
        if isinstance(self.limit, int):
            return bad > self.limit
        return bad > self.limit * (seen if final else max(seen, FIRST_CHECK))

    def arithmetic(self, bad: int, seen: int) -> str:
        """How many rows are bad, and how many the budget allows, for people."""
        share = f"{self.limit:.4g} of the rows seen, which is {int(self.limit * seen):,}"
        allowed = f"{self.limit:,}" if isinstance(self.limit, int) else share
        return f"{bad:,} of {seen:,} rows are bad; errors.max_bad_rows={self.limit} allows {allowed}"


def file_name(shard: Shard) -> str:
    """The name of a shard's quarantine file among the records."""
    return f"{FOLDER}{shard.name}.parquet"


def publish(store: Store, shard: Shard, reader: Reader, bad: Sequence[BadRow]) -> Written:
    """Write the bad rows of a shard, in input order: every column of the input, then source, row number, error and raw text.

    A row of an earlier quarantine keeps the source and number that it came with. Whatever the columns hold is written: a column that
    the files of a shard type differently, or that Parquet cannot hold, becomes text.
    """
    tables = [
        _whole(reader, fragment, [row for row in bad if row.fragment == fragment]) for fragment in shard.fragments
    ]
    content = in_parquet(united([table for table in tables if table is not None]))
    with store.publish(file_name(shard)) as file:
        file.write(content)
        return file.written()


def _whole(reader: Reader, fragment: Fragment, bad: Sequence[BadRow]) -> pa.Table | None:
    import pyarrow as pa

    if not bad:
        return None
    read = [row for row in bad if row.text is None]
    rows = reader.whole_rows(fragment, [row.number for row in read])
    if len(read) < len(bad):  # in the place of a row that cannot be parsed is one of nulls
        counted = iter(range(len(read)))
        rows = rows.take(pa.array([next(counted) if row.text is None else None for row in bad], pa.int64()))
    own, places = _own(rows, fragment, bad)
    errors = [
        [type(row.error).__name__ for row in bad],
        [exceptions.clipped(exceptions.message_of(row.error), exceptions.RECORD) for row in bad],
    ]
    before = rows.column(RAW).to_pylist() if RAW in rows.column_names else [None] * len(bad)
    raw = pa.array([text if row.text is None else row.text for row, text in zip(bad, before, strict=True)], pa.string())
    return pa.table([*own.columns, *places, *errors, raw], names=[*own.column_names, *ADDED, RAW])


def _own(rows: pa.Table, fragment: Fragment, bad: Sequence[BadRow]) -> tuple[pa.Table, tuple[Any, Any]]:
    """The columns of the input, and the places of the rows: those that they came with if they were in quarantine before."""
    names = [name for name in rows.column_names if name != RAW]
    if set(ADDED) <= set(names):
        return rows.select([name for name in names if name not in ADDED]), (rows.column("_source"), rows.column("_row"))
    return rows.select(names).rename_columns(_beside(names)), (
        [fragment.input.name] * len(bad),
        [row.number for row in bad],
    )


def _beside(names: Sequence[str]) -> list[str]:
    """The names of the input's columns. One that has the name of a column of ours gets another, unused name."""
    taken = {*names, *ADDED, RAW}
    found = []
    for name in names:
        spellings = (f"input{name}", *(f"input{name}_{i}" for i in range(2, len(taken) + 3)))
        free = name if name not in ADDED else next(each for each in spellings if each not in taken)
        taken.add(free)
        found.append(free)
    return found


# ---------------------------------------------------------------- whatever the columns hold


def united(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in one table. A column has a type that holds the values of every table; if there is none, it becomes text."""
    import pyarrow as pa

    names = list(dict.fromkeys(name for table in tables for name in table.column_names if name not in (*ADDED, RAW)))
    return pa.table({name: _united([_column(table, name) for table in tables]) for name in (*names, *ADDED, RAW)})


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    import pyarrow as pa

    return table.column(name) if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])


def _united(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        kinds = [pa.schema([("", plain_type(column.type))]) for column in columns]
        kind = pa.unify_schemas(kinds, promote_options="permissive").field(0).type
        return pa.chunked_array([chunk for column in columns for chunk in column.cast(kind).chunks], type=kind)
    except pa.ArrowException:
        return pa.chunked_array([as_text(column) for column in columns], type=pa.string())


def in_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file. A column that Parquet cannot hold becomes text."""
    import pyarrow as pa

    try:
        return _in_parquet(table)
    except (pa.ArrowException, TypeError):
        columns = {name: table.column(name) for name in table.column_names}
        return _in_parquet(pa.table({name: each if _fits(each) else as_text(each) for name, each in columns.items()}))


def _in_parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    return content.getvalue()


def _fits(column: pa.ChunkedArray) -> bool:
    import pyarrow as pa

    try:
        _in_parquet(pa.table([column], names=["column"]))
    except (pa.ArrowException, TypeError):
        return False
    return True


def as_text(column: pa.ChunkedArray) -> pa.Array:
    """The values as texts: a string as it is, anything else as JSON."""
    import pyarrow as pa

    return pa.array([_text(value) for value in column], pa.string())


def _text(value: pa.Scalar) -> str | None:
    if not value.is_valid:
        return None
    try:
        plain = value.as_py()
        return plain if isinstance(plain, str) else json.dumps(in_json(plain), ensure_ascii=False)
    except (ValueError, OverflowError, TypeError):  # a time that Python has no date for
        return f"a value of the type {value.type}, which has no text"
