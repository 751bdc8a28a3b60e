"""Rows that the model cannot predict: how many are allowed, and the file they go to, whole, each with its error.

A quarantine file is published before the part of its shard, and that part commits both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.secrets import hide
from runner.storage import Store
from runner.types import Fragment, Reader, Shard

if TYPE_CHECKING:
    import pyarrow as pa

FIRST_CHECK = 10_000  # rows before a fraction means anything
ADDED = ("_source", "_row", "_error_type", "_error")


class BadRow(NamedTuple):
    """A row that cannot be predicted.

    Attributes:
        fragment: Where it lies.
        number: Its row number within the file, from 0.
        error: Why.
    """

    fragment: Fragment
    number: int
    error: Exception

    def told(self) -> str:
        """For people."""
        return hide(f"{self.fragment.file.path} row {self.number}: {type(self.error).__name__}: {self.error}")


@dataclass(frozen=True)
class Budget:
    """How many bad rows are allowed.

    Attributes:
        limit: `errors.max_bad_rows`: a count, or a fraction of the rows seen.
    """

    limit: int | float

    def passed(self, bad: int, seen: int, *, final: bool = False) -> bool:
        """Whether `bad` of `seen` rows are too many; a fraction of fewer than 10,000 rows counts as one of 10,000 until the end."""
        if isinstance(self.limit, int):
            return bad > self.limit
        return bad > self.limit * (seen if final else max(seen, FIRST_CHECK))

    def told(self, bad: int, seen: int) -> str:
        """The arithmetic, for people."""
        allowed = f"{self.limit:,}" if isinstance(self.limit, int) else f"{self.limit:.4g} of the rows seen"
        return f"{bad:,} of {seen:,} rows are bad; errors.max_bad_rows={self.limit} allows {allowed}"


def file_name(shard: Shard) -> str:
    """Path of a shard's quarantine file below the sink."""
    return f"_runner/quarantine/{shard.name}.parquet"


def publish(store: Store, shard: Shard, reader: Reader, bad: Sequence[BadRow]) -> None:
    """Write the bad rows of a shard, in input order: every column of the input, then source, row number and error.

    A row of an earlier quarantine keeps the source and number that it came with.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [
        _whole(reader, fragment, [row for row in bad if row.fragment == fragment]) for fragment in shard.fragments
    ]
    table = pa.concat_tables([table for table in tables if table is not None], promote_options="permissive")
    with store.publish(file_name(shard)) as file:
        pq.write_table(table, file, compression="zstd")


def _whole(reader: Reader, fragment: Fragment, bad: Sequence[BadRow]) -> pa.Table | None:
    import pyarrow as pa

    if not bad:
        return None
    rows = reader.whole_rows(fragment, [row.number for row in bad])
    again = set(ADDED) <= set(rows.column_names)
    places: tuple[Any, Any] = ([fragment.file.path] * len(bad), [row.number for row in bad])
    source, number = (rows.column("_source"), rows.column("_row")) if again else places
    errors = [[type(row.error).__name__ for row in bad], [hide(str(row.error)) for row in bad]]
    added = pa.table([source, number, *errors], names=ADDED)
    own = rows.drop_columns(ADDED) if again else rows.rename_columns([_beside(name) for name in rows.column_names])
    return pa.table([*own.columns, *added.columns], names=[*own.column_names, *ADDED])


def _beside(name: str) -> str:
    """A column of the input's own that has the name of one of ours keeps its values under another."""
    return f"input{name}" if name in ADDED else name
