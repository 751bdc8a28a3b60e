"""Cuts a text file into ranges of bytes that begin and end between two records, so that several workers can share the file.

Where each line is a record, a range begins behind any line break. In CSV a line break may stand within quotes, and from the middle of a
file nobody can see whether it does: that depends on everything before. Reading everything before would read a file twice. So both
possibilities are followed, from the first line break behind the place where the file is to be cut: one reads on as if it ended a row, the
other one as if it stood within a quoted cell. Sooner or later both of them see a row end at the same place, and from there on they are
the same: there the file can be cut, whichever was right. Rows with a quoted cell bring them together, mostly at once.

Text without quotes never does. But no row may be longer than two of pyarrow's blocks, so if no quote follows for that long
(`LONGEST_ROW_BYTES`), the line break was not within quotes; nor was it if the file ends before, since a file may not end within quotes.
Local files are searched that far. Of a remote file only `WINDOW_BYTES` are fetched for each cut, and if no quote is among them, its line
break is believed. If that is wrong, no row is lost or doubled: the range before it then ends within quotes, which its reader finds out
(`unclosed_quotes.py`), and the job fails.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from runner.sources import lines
from runner.sources.opening import codec_of, open_part
from runner.storage.folder import range_fetcher
from runner.storage.locations import is_local
from runner.storage.parallel import THREADS, map_in_threads
from runner.types import Fragment, Input

BYTES = "bytes"  # begins the span of such a range: ("bytes", begin, end)
WINDOW_BYTES = 256 * 1024
CHUNK_BYTES = 1024**2
LONGEST_ROW_BYTES = 2 * lines.LONGEST_ROW_BYTES + CHUNK_BYTES  # more than two blocks of pyarrow, which no row may be
ANY_BREAK = re.compile(rb"\r\n?|\n")


class Stored:
    """The bytes of a file by their place.

    Attributes:
        local: Whether reading much of it costs little.
        size: Bytes of the file.
    """

    def __init__(self, file: Input, fetch: Callable[[int, int], bytes], *, local: bool) -> None:
        """Take a file, and what reads bytes from a begin to an end."""
        self.local, self.size = local, file.size
        self._fetch = fetch
        self._clear: dict[int, bool] = {}

    def read(self, begin: int, length: int) -> bytes:
        """Return so many bytes, or fewer at the end of the file."""
        return self._fetch(begin, min(self.size, begin + length))

    def has_quote(self, begin: int, length: int) -> bool:
        """Return whether a quote is among these bytes, or in the chunks of the file around them. Each chunk is searched once."""
        end = min(self.size, begin + length)
        return any(not self._is_clear(i) for i in range(begin // CHUNK_BYTES, -(-end // CHUNK_BYTES)))

    def _is_clear(self, chunk: int) -> bool:
        if chunk not in self._clear:
            self._clear[chunk] = b'"' not in self.read(chunk * CHUNK_BYTES, CHUNK_BYTES)
        return self._clear[chunk]


Find = Callable[[Stored, int], int | None]
"""Returns the place where a record begins, at or behind a place in the file; `None` if it cannot tell."""


def split_text(
    fragment: Fragment,
    options: Mapping[str, Any],
    most_bytes: int | None,
    most_rows: int | None,
    find: Find,
    header: Callable[[], int] = int,
) -> list[Fragment]:
    """Return a whole text file in ranges of about so many bytes or rows, whichever is less; a compressed file stays whole.

    Args:
        fragment: The whole file.
        options: fsspec's storage options.
        most_bytes: Bytes of a range.
        most_rows: Rows of a range; they are estimated by `about_rows`.
        find: Finds where a record begins.
        header: Returns how many bytes at the beginning of the file are no record.
    """
    file, rows = fragment.input, fragment.about_rows
    wanted = -(-file.size // most_bytes) if most_bytes else 1
    count = max(wanted, -(-rows // most_rows) if rows and most_rows else 1)
    if count < 2 or codec_of(file.name) or fragment.span is not None:
        return [fragment]
    least = header()
    places = [file.size * i // count for i in range(1, count)]
    with _opened(file, options) as stored:
        found = set(map_in_threads(partial(find, stored), places, 1 if stored.local else THREADS))
    ends = sorted({0, file.size, *(place for place in found if place is not None and least < place < file.size)})
    return [_part(fragment, begin, end) for begin, end in pairwise(ends)] if len(ends) > 2 else [fragment]


def range_of(fragment: Fragment) -> tuple[int, int]:
    """Return the bytes that a fragment has of its file: all where it has no span."""
    return (0, fragment.input.size) if fragment.span is None else fragment.span[1:]


def _part(whole: Fragment, begin: int, end: int) -> Fragment:
    rows = None if whole.about_rows is None else whole.about_rows * (end - begin) // whole.input.size
    return Fragment(whole.input, end - begin, span=(BYTES, begin, end), joinable=True, about_rows=rows)


@contextlib.contextmanager
def _opened(file: Input, options: Mapping[str, Any]) -> Iterator[Stored]:
    if is_local(file.name):
        with open(file.name, "rb", buffering=0) as local:
            yield Stored(file, lambda begin, end: os.pread(local.fileno(), end - begin, begin), local=True)
        return
    ranges = range_fetcher(file.name, options, file.version)

    def fetch(begin: int, end: int) -> bytes:
        [data] = ranges([(begin, end)])
        return bytes(data)

    yield Stored(file, fetch, local=False)


def line_start(stored: Stored, place: int) -> int | None:
    """Return where a line begins, where only a line feed ends one."""
    for reach in (WINDOW_BYTES, LONGEST_ROW_BYTES):
        if found := stored.read(place, reach).find(b"\n") + 1:
            return place + found
    return None


def count_line_feeds(file: Input, options: Mapping[str, Any], end: int) -> int:
    """Return how many lines end before this place in a file, where only a line feed ends one."""
    with open_part(file, options, 0, end) as stream:
        return sum(data.count(b"\n") for data in iter(lambda: bytes(stream.read(CHUNK_BYTES)), b""))


def csv_start(delimiter: str) -> Find:
    """Return a function that finds where a row of CSV begins."""

    def find(stored: Stored, place: int) -> int | None:
        for reach in (WINDOW_BYTES, LONGEST_ROW_BYTES) if stored.local else (WINDOW_BYTES,):
            text = stored.read(place, reach)
            if (begin := _behind_break(text)) is None:
                continue
            far = reach == LONGEST_ROW_BYTES or not stored.local
            if b'"' not in text[begin:] and (far or not stored.has_quote(place + begin, LONGEST_ROW_BYTES)):
                return place + begin
            found = _agreed(text, begin, delimiter, ended=place + len(text) >= stored.size)
            if found is not None:
                return place + found
        return None

    return find


def _behind_break(text: bytes) -> int | None:
    """Return the place behind the first line break; one at the end of the text may be the first half of one."""
    found = ANY_BREAK.search(text)
    return found.end() if found and found.end() < len(text) else None


@lru_cache(maxsize=16)
def _patterns(delimiter: str, end: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return patterns of a row, and of what is left of a row from within a quoted cell. The last row may lack its line break."""
    row = lines.csv_row(delimiter).pattern.removesuffix(rb"(?:\r\n?|\n)") + end
    mark = re.escape(delimiter.encode())
    rest = rb'[^"]*+(?:""[^"]*+)*+"[^%s\r\n]*+(?:%s|%s%s)' % (mark, end, mark, row)
    return re.compile(row), re.compile(rest)


def _agreed(text: bytes, begin: int, delimiter: str, *, ended: bool) -> int | None:
    """Return the first place behind `begin` where a row ends, whether or not `begin` lies within quotes; `None` if the text does not tell.

    Args:
        text: Some of a file.
        begin: A place behind a line break.
        delimiter: Between cells.
        ended: Whether the file ends with the text. Then whichever of the two ends within quotes is wrong.
    """
    row, rest = _patterns(delimiter, rb"(?:\r\n?|\n|\Z)" if ended else rb"(?:\r\n|\n|\r(?=[^\n]))")
    outside: int | None = begin
    inside = _end(rest, text, begin)
    first = inside
    while outside is not None and inside is not None and outside != inside:
        if outside < inside:
            outside = _end(row, text, outside)
        else:
            inside = _end(row, text, inside)
    if outside == inside:
        return outside
    if not ended:
        return None
    return begin if outside is not None else first


def _end(pattern: re.Pattern[bytes], text: bytes, at: int) -> int | None:
    found = pattern.match(text, at)
    return found.end() if found else None
