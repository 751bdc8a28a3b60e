"""Parquet: row groups that can be read alone, skipped by their statistics, and streamed however large they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.sources.formats import Look, Numbered
from runner.sources.opening import NEAR, Ranges, opened_ranges
from runner.types import Fragment, Input

if TYPE_CHECKING:
    import pyarrow as pa

READ_ROWS = 65_536  # at once, or more where they are short
READ_BYTES = 1024**2
SIGNATURE = 28  # bytes of a footer's signature: a nonce and a tag
TAIL = 8  # bytes behind the footer: its length and the magic
HELD_BYTES = 64 * 1024**2  # of one row group's columns, as stored: what is larger is read piece by piece
LEAST_PIECE = 64 * 1024
MOST_PIECE = 4 * 1024**2


@dataclass(frozen=True)
class Parquet:
    """Row groups can be read alone, and skipped by their statistics."""

    def look(self, file: Input, options: Mapping[str, Any]) -> Look:
        """Read the footer."""
        import pyarrow.parquet as pq

        with opened_ranges(file, options) as (handle, _), pq.ParquetFile(handle, pre_buffer=False) as parquet:
            _refuse_encrypted(handle, parquet.metadata)
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            return Look(list(row_groups(file, counts)), parquet.schema_arrow)

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Numbered:
        """Read one row group at a time, in batches: nothing of another is held."""
        import pyarrow.parquet as pq

        with opened_ranges(fragment.input, options, NEAR) as (handle, ranges):
            footer = pq.read_metadata(handle)
            _refuse_encrypted(handle, footer)
            starts = list(_starts(footer, fragment))
            chunks = [_chunks(footer, group, schema.names) for group, _ in starts]
            wanted = _wanted_groups(handle, [group for group, _ in starts], keep)
            most = max((_bytes(each) for each in chunks), default=0)
            pieces = _piece(most, len(schema))
            with pq.ParquetFile(
                handle, metadata=footer, buffer_size=pieces, page_checksum_verification=True
            ) as parquet:
                for (group, first), stored in zip(starts, chunks, strict=True):
                    if group in wanted:
                        _fetch_ahead(ranges, stored)
                        yield from _group(parquet, group, first, schema)


def _refuse_encrypted(handle: Any, footer: Any) -> None:
    """Refuse columns that are encrypted under a readable footer: to ask pyarrow about one ends the process.

    Such a footer is signed, and its length counts the signature.
    """
    handle.seek(-TAIL, os.SEEK_END)
    length = int.from_bytes(bytes(handle.read(4)), "little")
    if length == footer.serialized_size + SIGNATURE:
        raise ValueError("it holds encrypted columns; decrypt it first")


def row_groups(file: Input, counts: Sequence[int]) -> Iterator[Fragment]:
    """A fragment for each row group, given their rows."""
    if not counts:
        yield Fragment(file, file.size, 0, span=(0, 0), joinable=True)
    first, total = 0, max(1, sum(counts))
    for i, rows in enumerate(counts):
        yield Fragment(file, file.size * rows // total, rows, first, (i, i + 1), joinable=True)
        first += rows


def _starts(footer: Any, fragment: Fragment) -> Iterator[tuple[int, int]]:
    """The fragment's row groups, each with the number of its first row."""
    first = fragment.first_row
    for group in range(*(fragment.span or (0, footer.num_row_groups))):
        yield group, first
        first += footer.row_group(group).num_rows


def _chunks(footer: Any, group: int, names: Iterable[str]) -> list[tuple[int, int]]:
    """Where the named columns of a row group are stored, each (start, end)."""
    wanted = set(names)
    stored = footer.row_group(group)
    columns = (stored.column(i) for i in range(stored.num_columns))
    return [_range(column) for column in columns if not wanted.isdisjoint(_prefixes(column.path_in_schema))]


def _prefixes(path: str) -> Iterator[str]:
    """The column that a path may lie in: a name may itself hold dots."""
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _range(column: Any) -> tuple[int, int]:
    dictionary = column.dictionary_page_offset
    start = min(column.data_page_offset, dictionary) if dictionary else column.data_page_offset
    return start, start + column.total_compressed_size


def _bytes(chunks: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in chunks)


def _piece(most: int, columns: int) -> int:
    """Bytes to read of a column at once; 0 reads it whole, which is faster where all of it is small."""
    if most <= HELD_BYTES:
        return 0
    return max(LEAST_PIECE, min(MOST_PIECE, HELD_BYTES // max(1, columns)))


def _fetch_ahead(ranges: Ranges | None, chunks: Sequence[tuple[int, int]]) -> None:
    if ranges is not None:
        ranges.hold(chunks if _bytes(chunks) <= HELD_BYTES else [])


def _group(parquet: Any, group: int, first: int, schema: pa.Schema) -> Numbered:
    import pyarrow as pa

    rows = _rows_at_once(schema)
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(schema.names), use_threads=False):
        yield first, pa.Table.from_batches([batch])
        first += batch.num_rows


def _rows_at_once(schema: pa.Schema) -> int:
    """Rows of a batch: each goes from thread to thread, which costs the same however short its rows are."""
    try:
        width = sum(int(column.type.bit_width) for column in schema)
    except ValueError:  # one is as long as its values
        return READ_ROWS
    return max(READ_ROWS, 8 * READ_BYTES // max(1, width))


def _wanted_groups(handle: Any, groups: Sequence[int], keep: pa.Expression | None) -> set[int]:
    """The row groups in which, by their statistics, some row may pass the filter."""
    if keep is None or not groups:
        return set(groups)
    import pyarrow as pa
    import pyarrow.dataset as ds  # which imports pandas

    whole = ds.ParquetFileFormat().make_fragment(handle, row_groups=list(groups))
    try:
        return {info.id for info in whole.subset(filter=keep, schema=whole.physical_schema).row_groups}
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return set(groups)  # stored in types that the filter does not compare: rows are filtered exactly afterwards
