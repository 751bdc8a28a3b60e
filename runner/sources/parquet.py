"""Reads Parquet: each row group is a fragment, is skipped if its statistics allow it, and is streamed however large it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.sources.formats import FileContents, Numbered
from runner.sources.opening import NEAR_BYTES, Ranges, open_ranges
from runner.types import Fragment, Input

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = "rows"  # begins the span of some rows of a file: ("rows", begin, end)
READ_ROWS = 65_536  # rows of a batch, or more where the rows are short
READ_BYTES = 1024**2  # bytes of a batch at least, where the width of a row is known
SIGNATURE_BYTES = 28  # bytes of a footer's signature: a nonce and a tag
TAIL_BYTES = 8  # after the footer: its length and the magic bytes
HELD_BYTES = 64 * 1024**2  # of one row group's columns, as stored: larger ones are read piece by piece
LEAST_PIECE_BYTES = 64 * 1024
MOST_PIECE_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class Parquet:
    """Reads Parquet files; a row group is one fragment, or several."""

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Read the footer."""
        import pyarrow.parquet as pq

        with open_ranges(file, options) as (handle, _), pq.ParquetFile(handle, pre_buffer=False) as parquet:
            _refuse_encrypted(handle, parquet.metadata)
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            return FileContents(list(row_groups(file, counts)), parquet.schema_arrow)

    def divide(
        self,
        fragment: Fragment,
        options: Mapping[str, Any],  # noqa: ARG002
        most_bytes: int | None,  # noqa: ARG002
        most_rows: int | None,
    ) -> list[Fragment]:
        """Return a row group in pieces of so many rows.

        Bytes do not divide it: whoever reads the rows in its middle has to read and decode those before them.
        """
        return list(pieces_of_rows(fragment, most_rows))

    def read(
        self, fragment: Fragment, schema: pa.Schema, options: Mapping[str, Any], keep: pa.Expression | None
    ) -> Numbered:
        """Yield one row group after the other in batches; only one row group is in memory at a time."""
        import pyarrow.parquet as pq

        with open_ranges(fragment.input, options, NEAR_BYTES) as (handle, ranges):
            yield from read_groups(handle, pq.read_metadata(handle), fragment, schema, keep, ranges)


def read_groups(
    handle: Any,
    footer: Any,
    fragment: Fragment,
    schema: pa.Schema,
    keep: pa.Expression | None = None,
    ranges: Ranges | None = None,
    *,
    ahead: bool = False,
) -> Numbered:
    """Yield the row groups of a fragment, in batches.

    Args:
        handle: The open file.
        footer: Its metadata.
        fragment: Which row groups.
        schema: The columns to read.
        keep: A filter that tells which row groups need not be read.
        ranges: Fetches ahead from a remote file.
        ahead: Whether pyarrow fetches the columns of a row group at once, as a remote file that has no `ranges` needs it.
    """
    import pyarrow.parquet as pq

    _refuse_encrypted(handle, footer)
    starts = list(_numbered_groups(footer, fragment))
    chunks = [_column_ranges(footer, group, schema.names) for group, _ in starts]
    wanted = _wanted_groups(handle, [group for group, _ in starts], keep)
    most = max((_total_bytes(each) for each in chunks), default=0)
    pieces = _piece_bytes(most, len(schema))
    whole = ahead and most <= HELD_BYTES
    with pq.ParquetFile(
        handle, metadata=footer, buffer_size=pieces, pre_buffer=whole, page_checksum_verification=True
    ) as parquet:
        for (group, first), stored in zip(starts, chunks, strict=True):
            if group in wanted:
                _prefetch(ranges, stored)
                yield from _within(_read_group(parquet, group, first, schema), fragment)


def _refuse_encrypted(handle: Any, footer: Any) -> None:
    """Raise a `ValueError` for a file with encrypted columns and a readable footer: pyarrow ends the process when such a column is read.

    Such a footer is signed, and the length that the file states for it includes the signature. That is how it is recognised here,
    without a question to pyarrow about its columns.
    """
    handle.seek(-TAIL_BYTES, os.SEEK_END)
    length = int.from_bytes(bytes(handle.read(4)), "little")
    if length == footer.serialized_size + SIGNATURE_BYTES:
        raise ValueError("it holds encrypted columns; decrypt it first")


def row_groups(file: Input, counts: Sequence[int]) -> Iterator[Fragment]:
    """Yield a fragment for each row group, given the number of rows of each."""
    if not counts:
        yield Fragment(file, file.size, 0, span=(0, 0), joinable=True)
    first, total = 0, max(1, sum(counts))
    for i, rows in enumerate(counts):
        yield Fragment(file, file.size * rows // total, rows, first, (i, i + 1), joinable=True)
        first += rows


def pieces_of_rows(fragment: Fragment, most: int | None) -> Iterator[Fragment]:
    """Yield a fragment in pieces of so many rows; whole if it has no more."""
    if most is None or fragment.rows is None or fragment.rows <= most:
        yield fragment
        return
    first = fragment.first_row
    for begin in range(first, first + fragment.rows, most):
        rows = min(most, first + fragment.rows - begin)
        size = fragment.bytes * rows // fragment.rows
        yield Fragment(fragment.input, size, rows, begin, (ROWS, begin, begin + rows), joinable=True)


def _numbered_groups(footer: Any, fragment: Fragment) -> Iterator[tuple[int, int]]:
    """Yield the row groups that a fragment has rows of, each with the number of its first row in the file."""
    if _is_rows(fragment):
        first, groups = 0, range(footer.num_row_groups)
    else:
        first, groups = fragment.first_row, range(*(fragment.span or (0, footer.num_row_groups)))
    for group in groups:
        rows = footer.row_group(group).num_rows
        if not _is_rows(fragment) or _overlap(fragment, first, rows):
            yield group, first
        first += rows


def _is_rows(fragment: Fragment) -> bool:
    return fragment.span is not None and fragment.span[0] == ROWS


def _overlap(fragment: Fragment, first: int, rows: int) -> range:
    """Return which of so many rows from `first` on the fragment has."""
    assert fragment.span is not None
    return range(max(first, fragment.span[1]), min(first + rows, fragment.span[2]))


def _within(tables: Numbered, fragment: Fragment) -> Numbered:
    """Yield what the fragment has of these tables; what comes after its last row is not decoded."""
    if not _is_rows(fragment):
        yield from tables
        return
    for first, table in tables:
        inside = _overlap(fragment, first, table.num_rows)
        if inside:
            yield inside.start, table.slice(inside.start - first, len(inside))
        if first + table.num_rows >= fragment.span[2]:  # type: ignore[index]
            return


def _column_ranges(footer: Any, group: int, names: Iterable[str]) -> list[tuple[int, int]]:
    """Return where the named columns of a row group are stored, each as (start, end) in bytes."""
    wanted = set(names)
    stored = footer.row_group(group)
    columns = (stored.column(i) for i in range(stored.num_columns))
    return [
        _stored_range(column) for column in columns if not wanted.isdisjoint(_possible_columns(column.path_in_schema))
    ]


def _possible_columns(path: str) -> Iterator[str]:
    """Yield the columns that a dotted path may belong to: a name may itself contain dots."""
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _stored_range(column: Any) -> tuple[int, int]:
    dictionary = column.dictionary_page_offset
    start = min(column.data_page_offset, dictionary) if dictionary else column.data_page_offset
    return start, start + column.total_compressed_size


def _total_bytes(chunks: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in chunks)


def _piece_bytes(most: int, columns: int) -> int:
    """Return how many bytes of a column to read at once; 0 reads it whole, which is faster if the row group is small."""
    if most <= HELD_BYTES:
        return 0
    return max(LEAST_PIECE_BYTES, min(MOST_PIECE_BYTES, HELD_BYTES // max(1, columns)))


def _prefetch(ranges: Ranges | None, chunks: Sequence[tuple[int, int]]) -> None:
    if ranges is not None:
        ranges.prefetch(chunks if _total_bytes(chunks) <= HELD_BYTES else [])


def _read_group(parquet: Any, group: int, first: int, schema: pa.Schema) -> Numbered:
    import pyarrow as pa

    rows = _rows_at_once(schema)
    for batch in parquet.iter_batches(rows, row_groups=[group], columns=list(schema.names), use_threads=False):
        yield first, pa.Table.from_batches([batch])
        first += batch.num_rows


def _rows_at_once(schema: pa.Schema) -> int:
    """Return the rows of a batch: more for short rows, since handing a batch to another thread costs the same for any length."""
    try:
        width = sum(int(column.type.bit_width) for column in schema)
    except ValueError:  # one is as long as its values
        return READ_ROWS
    return max(READ_ROWS, 8 * READ_BYTES // max(1, width))


def _wanted_groups(handle: Any, groups: Sequence[int], keep: pa.Expression | None) -> set[int]:
    """Return the row groups in which a row may pass the filter, by their statistics."""
    if keep is None or not groups:
        return set(groups)
    import pyarrow as pa
    import pyarrow.dataset as ds  # which imports pandas

    whole = ds.ParquetFileFormat().make_fragment(handle, row_groups=list(groups))
    try:
        return {info.id for info in whole.subset(filter=keep, schema=whole.physical_schema).row_groups}
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return set(groups)  # stored in types that the filter does not compare: rows are filtered exactly afterwards
