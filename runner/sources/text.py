"""What reading CSV and reading JSON lines share: types by the first block of a file, and pyarrow's errors in words that help."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.sources import lines
from runner.sources.formats import FileContents
from runner.sources.opening import open_text
from runner.types import Input
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = lines.LONGEST_ROW_BYTES  # what pyarrow parses at a time; types are inferred from the first block
MISLED = (
    "conversion error",
    "changed from",
    "Failed to convert JSON",
)  # pyarrow's words where the inferred type does not fit

Opening = Callable[[], AbstractContextManager[Any]]
"""Opens a file, decompressed, from its beginning."""


def declared_types(spelled: Mapping[str, str]) -> dict[str, Any]:
    """Return `source.column_types` as Arrow types."""
    from runner.arrow.schemas import parse_type

    return {name: parse_type(name, each) for name, each in spelled.items()}


def types_of(schema: pa.Schema) -> dict[str, Any]:
    """Return column name to Arrow type."""
    return {column.name: column.type for column in schema}


def stream_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a pyarrow reader.

    Raises:
        ValueError: A row cannot be parsed; the message says what to do.
    """
    import pyarrow as pa

    rows = 0
    try:
        for batch in reader:
            rows += batch.num_rows
            yield batch
    except pa.ArrowInvalid as wrong:
        raise readable_error(wrong, rows) from wrong


def parse_rows_with(parse: Callable[[bytes], pa.Table]) -> lines.Parse:
    """Return a function that parses rows by `parse`, and raises a `ValueError` that says what to do where it cannot."""
    import pyarrow as pa

    def parse_rows(rows: Sequence[lines.Row]) -> pa.Table:
        try:
            return parse(b"".join(row.text for row in rows))
        except pa.ArrowInvalid as wrong:
            raise readable_error(wrong) from wrong

    return parse_rows


def readable_error(error: Exception, rows: int = 0) -> ValueError:
    """Return pyarrow's error in words that say what to do.

    Args:
        error: What pyarrow raised.
        rows: Rows before the block that failed. pyarrow counts the rows of JSON within their block; the message counts from the
            beginning of the file.
    """
    message = re.sub(r"in row (\d+)", lambda found: f"in row {rows + int(found[1])}", first_line(error))
    if "straddl" in message:
        return ValueError(
            f"after {rows} rows: a row of more than {BLOCK_BYTES >> 20} MiB, or a quote that nothing closes"
        )
    if re.search(r"Column\(\) changed|document is empty", message):
        return ValueError(f"{message}; expected one JSON object per line")
    if any(sign in message for sign in MISLED):
        return ValueError(
            f"{message} (types come from a file's first block; source.column_types={{name: type}} fixes them)"
        )
    return ValueError(message)


def inspect_text(
    file: Input,
    options: Mapping[str, Any],
    inspect: Callable[[Input, Opening], FileContents],
    parsable_text: Callable[[Opening, Exception], bytes],
) -> FileContents:
    """Return what a text file holds, by its first block. Where rows of that block cannot be parsed, its other rows decide.

    Args:
        file: A text file.
        options: fsspec's storage options.
        inspect: Infers the types of the text that it is given to open.
        parsable_text: Returns the text of the rows that can be parsed, or raises where rows that cannot be are not tolerated.
    """
    opening: Opening = partial(open_text, file.name, options)
    try:
        return inspect(file, opening)
    except ValueError as error:
        text = parsable_text(opening, error)
    return inspect(file, lambda: contextlib.nullcontext(io.BytesIO(text)))
