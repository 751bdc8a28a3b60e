"""What reading CSV and reading JSON lines share: types by the first block of a file, and pyarrow's errors in words that help."""

from __future__ import annotations

import builtins
import contextlib
import io
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.sources import lines
from runner.sources.cutting import BYTES, range_of
from runner.sources.formats import FileContents, Format
from runner.sources.opening import codec_of, open_part, open_text
from runner.types import Fragment, Input
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


_REMEMBERED: dict[Hashable, Any] = {}
MOST_REMEMBERED = 64  # facts of files: a few for each file of the shards that a worker has at once


def remembered(key: Hashable, find: Callable[[], Any]) -> Any:
    """Return what `find` returned for this key when this process asked before, else what it returns now.

    The shards of one file all need its header, and a worker reads many of them. The key must name the file's version.
    """
    if (found := _REMEMBERED.get(key)) is None:
        if len(_REMEMBERED) >= MOST_REMEMBERED:
            _REMEMBERED.clear()
        found = _REMEMBERED[key] = find()
    return found


def count_line_breaks(file: Input, options: Mapping[str, Any], end: int) -> int:
    """Return how many lines end before this place in a file, whichever of the three line breaks ends them."""
    count, last = 0, b""
    if end:
        with open_part(file, options, 0, end) as stream:
            while data := bytes(stream.read(lines.PIECE_BYTES)):
                count += lines.count_line_breaks(data) - (last == b"\r" and data[:1] == b"\n")
                last = data[-1:]
    return count


def count_rows_before(format_: Format, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:
    """Return how many rows of a file come before a fragment, those included that cannot be parsed.

    This reads the file up to there. It is asked for only where a row is put aside or named in a message. A process that asks for several
    places of a file, one behind the other, reads on from the place before.

    Args:
        format_: Reads the file, and tolerates rows that cannot be parsed.
        fragment: What comes after these rows.
        options: fsspec's storage options.
        schema: Some columns of the file.
    """
    begin, _ = range_of(fragment)
    known = _REMEMBERED.get(("rows", fragment.input), (0, 0))
    place, rows = known if known[0] <= begin else (0, 0)
    if place < begin:
        before = replace(fragment, span=(BYTES, place, begin), rows=None)
        rows += sum(item.num_rows for _, item in format_.read(before, schema, options, None))
        _REMEMBERED["rows", fragment.input] = begin, rows
    return rows


class Counted:
    """Opens a file, and counts the line breaks in what is read of it."""

    def __init__(self, opening: Opening) -> None:
        """Take what opens the file."""
        self._opening = opening
        self._read = CountedStream(io.BytesIO())

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Any]:
        """Open the file, and count anew."""
        with self._opening() as stream:
            self._read = CountedStream(stream)
            yield self._read

    def lines(self, file: Input) -> int | None:
        """Return about how many lines the file has; `None` for a compressed file of which a part was read."""
        read = self._read
        if read.ended:
            return read.lines
        return None if codec_of(file.name) or not read.bytes else read.lines * file.size // read.bytes


class CountedStream(io.RawIOBase):
    """A stream that counts what is read of it.

    Attributes:
        lines: Line breaks so far.
        bytes: Bytes so far.
        ended: Whether the stream was read to its end.
    """

    def __init__(self, stream: Any) -> None:
        """Take the stream."""
        self.lines = self.bytes = 0
        self.ended = False
        self._stream = stream

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def read(self, size: int = -1) -> builtins.bytes:
        """Return the next bytes."""
        data = builtins.bytes(self._stream.read(size))
        self.lines, self.bytes = self.lines + data.count(b"\n"), self.bytes + len(data)
        self.ended = self.ended or not data
        return data


def inspect_text(
    file: Input,
    options: Mapping[str, Any],
    inspect: Callable[[Input, Opening], FileContents],
    parsable_text: Callable[[Opening, Exception], bytes],
    header: int = 0,
) -> FileContents:
    """Return what a text file holds, by its first block, and about how many rows it has.

    Where rows of the first block cannot be parsed, its other rows decide.

    Args:
        file: A text file.
        options: fsspec's storage options.
        inspect: Infers the types of the text that it is given to open.
        parsable_text: Returns the text of the rows that can be parsed, or raises where rows that cannot be are not tolerated.
        header: Lines that are no rows.
    """
    opening = Counted(partial(open_text, file.name, options))
    try:
        contents = inspect(file, opening)
    except ValueError as error:
        text = parsable_text(opening, error)
        contents = inspect(file, lambda: contextlib.nullcontext(io.BytesIO(text)))
    about = opening.lines(file)
    rows = None if about is None else max(1, about - header)
    return contents._replace(fragments=[replace(each, about_rows=rows) for each in contents.fragments])
