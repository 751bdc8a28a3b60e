"""Finds the rows of a text file that cannot be parsed, and the values of all rows that can.

pyarrow's readers parse a block of a file at a time. If a row of a block cannot be parsed, they return nothing of this block and nothing
after it. So a file that fails is read a second time: it is cut into blocks of whole rows here, and pyarrow parses each block by itself. A
block that fails is halved until a single row fails, in the same way in which a batch is halved that a predictor cannot take. A file
without such a row is streamed by pyarrow alone, since cutting rows in Python is many times slower.

Rows of CSV are cut by a regular expression that follows pyarrow's rules: a quote opens a quoted cell only at the beginning of the cell, two
quotes within it stand for one, and what follows the closing quote belongs to the cell. Its groups are atomic: if it could backtrack, it
would take the first half of a doubled quote for the closing quote, and cut a row where pyarrow does not. A change of pyarrow's rules would
break it in the same way; `tests/sources/test_lines.py` compares both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate
from runner.sources.formats import Items, Numbered
from runner.sources.unclosed_quotes import UNCLOSED
from runner.types import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_BYTES = 1024**2  # bytes of a block
LONGEST_ROW_BYTES = 4 * 1024**2  # bytes
MOST_BAD_ROWS = (
    500  # if this many rows at the beginning of a file cannot be parsed, and none can, no further row is tried
)
BOM = b"\xef\xbb\xbf"  # UTF-8's byte order mark
JSON_ROW = re.compile(rb"[^\n]*+\n")


class Row(NamedTuple):
    """A row of a text file as it stands there: one line, or several where a quoted cell holds line breaks.

    Attributes:
        line: Number of its first line, from 1.
        text: With its line break.
    """

    line: int
    text: bytes


Parse = Callable[[Sequence[Row]], "pa.Table"]


def csv_row(delimiter: str) -> re.Pattern[bytes]:
    """Return a pattern that matches one row of CSV with its line break."""
    mark = re.escape(delimiter.encode())
    cell = rb'(?>"[^"]*+(?:""[^"]*+)*+"[^%s\r\n]*+|[^"%s\r\n][^%s\r\n]*+|)' % (mark, mark, mark)
    return re.compile(rb"%s(?:%s%s)*+(?:\r\n?|\n)" % (cell, mark, cell))


def blocks(stream: Any, row: re.Pattern[bytes], piece: int | None = None, line: int = 1) -> Iterator[list[Row]]:
    """Yield the rows of a file in blocks.

    Args:
        stream: The file, from its beginning, or from the beginning of a line.
        row: Matches one row with its line break.
        piece: Bytes that are read at a time; `None` for 1 MiB.
        line: Number of the first line.

    Raises:
        ValueError: A row does not end within 4 MiB, or not before the file does.
    """
    rest, ended = b"", False
    while not ended:
        data = bytes(stream.read(piece or PIECE_BYTES))
        ended = not data
        text = (rest + data).removeprefix(BOM if line == 1 else b"")
        if ended and text and text[-1:] not in b"\r\n":
            text += b"\n"
        found, at = [], 0
        while (match := row.match(text, at)) and (ended or match.end() < len(text) or text[-1:] == b"\n"):
            found.append(Row(line, match[0]))
            line, at = line + count_line_breaks(match[0]), match.end()
        if found:
            yield found
        rest = text[at:]
        if len(rest) > LONGEST_ROW_BYTES:
            raise ValueError(
                f"line {line}: a row of more than {LONGEST_ROW_BYTES >> 20} MiB, or a quote that nothing closes"
            )
    if rest:
        raise ValueError(f"line {line}: {UNCLOSED}; it took in the rest of the file")


def first_rows(stream: Any, row: re.Pattern[bytes], size: int) -> list[Row]:
    """Return the complete rows among the first `size` bytes of a file."""
    text = b""
    while len(text) < size and (data := bytes(stream.read(size - len(text)))):
        text += data
    found: list[Row] = []
    cut = len(text) == size and text[-1:] not in (b"\r", b"\n")
    try:
        for block in blocks(io.BytesIO(text), row):
            found += block
    except ValueError:  # the last row is cut within quotes, so it is not among those that were found
        cut = False
    return found[:-1] if cut else found


def count_line_breaks(text: bytes) -> int:
    """Return how many line breaks of any kind are in a text."""
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def without_blank_lines(rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Yield the blocks without their blank lines."""
    return ([row for row in block if row.text.strip(b"\r\n")] for block in rows)


def split_header(rows: Iterator[list[Row]]) -> tuple[bytes, Iterator[list[Row]]]:
    """Return the first row, and the blocks of the rows after it."""
    first = next((block for block in rows if block), None)
    if first is None:
        raise ValueError("its first row, the names of its columns, does not end")
    return first[0].text, chain([first[1:]], rows)


def parsed(block: Sequence[Row], parse: Parse) -> Iterator[Good | Guilty]:
    """Yield what parsing returns for a block, in pieces around the rows that cannot be parsed."""

    def attempt(start: int, end: int) -> list[Tried]:
        try:
            return [Good(start, end, parse(block[start:end]))]
        except ValueError as error:
            return [Failed(start, end, error)]

    return isolate(0, len(block), attempt) if block else iter(())


def parse_around_bad_rows(rows: Iterator[list[Row]], parse: Parse, names: Sequence[str] = ()) -> Items:
    """Yield tables and unreadable rows in the order of the file, each with the number of its (first) row, counted from 0."""
    number = 0
    for block in rows:
        for each in parsed(block, parse):
            if isinstance(each, Guilty):
                yield number, unreadable(number, block[each.row], each.error, names)
                number += 1
            else:
                table: Any = each.result
                yield number, table
                number += table.num_rows


def unreadable(number: int, row: Row, error: Exception, names: Sequence[str] = ()) -> Unreadable:
    """Return the record of a row that cannot be parsed; its reason names the line and the column."""
    text = row.text.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return Unreadable(number, text, f"line {row.line}: {_without_block_numbers(str(error), names)}")


def _without_block_numbers(told: str, names: Sequence[str]) -> str:
    """Return pyarrow's message without its row numbers, which count within a block, and with names in place of column numbers."""
    bare = re.sub(r" in row \d+|Row #\d+: |rows \d+ to \d+: |CSV parse error: |JSON parse error: ", "", told)
    return re.sub(r"In CSV column #(\d+)", lambda at: f"column {names[int(at[1])]!r}" if names else at[0], bare)


def reread_where_failed(fast: Numbered, reread: Callable[[], Items], *, tolerant: bool) -> Items:
    """Yield what a reader yields, and where it fails, what reading the file again yields from that row on.

    Args:
        fast: Yields tables, each with the number of its first row.
        reread: Reads the file from its beginning, slowly; yields tables and unreadable rows.
        tolerant: Whether rows that cannot be parsed are yielded as `Unreadable`.

    Raises:
        ValueError: A row cannot be parsed, and this is not to be tolerated; or no single row is to blame.
    """
    done = 0
    try:
        for first, table in fast:
            done = first + table.num_rows
            yield first, table
        return
    except ValueError as error:
        failure = error
    blamed = False
    for first, item in reread():
        if isinstance(item, Unreadable):
            if not tolerant:
                raise ValueError(item.reason) from failure
            blamed = True
            yield first, item
        elif first + item.num_rows > done:
            skipped = max(0, done - first)
            yield first + skipped, item.slice(skipped)
    if not blamed:
        raise failure


def parsable_rows(
    block: Sequence[Row], parse: Parse, failure: Exception, names: Sequence[str], remedy: str, *, tolerant: bool
) -> bytes:
    """Return the text of those rows at the beginning of a file that can be parsed.

    Args:
        block: The rows.
        parse: Parses some of them.
        failure: The error of parsing all of them, raised if no single row is to blame.
        names: Names of the columns, for messages; empty if they are not known.
        remedy: What to do if no row can be parsed, for the message.
        tolerant: Whether rows that cannot be parsed are left out; else the first one is an error.

    Raises:
        ValueError: There is a row that cannot be, and this is not to be tolerated; or none that can; or no row is to blame.
    """
    good: list[bytes] = []
    reasons: list[str] = []
    for each in parsed(block, parse):
        if isinstance(each, Good):
            good += (row.text for row in block[each.start : each.end])
            continue
        reasons.append(unreadable(0, block[each.row], each.error, names).reason)
        if not tolerant:
            raise ValueError(reasons[0]) from failure
        if not good and len(reasons) >= MOST_BAD_ROWS:
            break
    if not reasons:
        raise failure
    if not good:
        raise ValueError(f"none of its first {len(reasons)} rows can be parsed: {reasons[0]}{remedy}") from failure
    return b"".join(good)


def row_texts(rows: Iterator[list[Row]], numbers: Sequence[int]) -> Mapping[int, str]:
    """Return the text of the rows of these numbers, counted from 0."""
    wanted, number, found = set(numbers), 0, dict[int, str]()
    for block in rows:
        inside = (each for each in range(number, number + len(block)) if each in wanted)
        found.update(
            (each, block[each - number].text.decode("utf-8", "backslashreplace").rstrip("\r\n")) for each in inside
        )
        number += len(block)
        if len(found) == len(wanted):
            break
    return found
