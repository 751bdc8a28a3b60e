"""Lines of a text file that cannot be parsed, found among those that can.

pyarrow's readers parse a block of a file at a time; of a block that fails they give nothing, and nothing after it. So a file in which one
fails is read a second time, in blocks of whole rows that are cut here, and pyarrow parses each block by itself. A block that fails is
halved until what fails is a single row: the same halving that finds the row which a predictor cannot take. A file without such a row
never comes here.

The rows are cut by a regular expression that follows pyarrow's own rules: a quote opens a cell only at its beginning, two quotes within it
stand for one, and what follows the closing quote belongs to the cell. Its groups are atomic: were it allowed to try again, it would
take the first half of a doubled quote for the closing one. `tests/sources/test_lines.py` holds it against pyarrow.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate
from runner.sources.formats import Items, Numbered
from runner.types import Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

PIECE = 1024**2  # bytes of a block
LONGEST_ROW = 4 * 1024**2  # bytes
HOPELESS = 500  # rows from the beginning of a file, none of which can be parsed
BOM = b"\xef\xbb\xbf"
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
    """What a row of CSV looks like."""
    mark = re.escape(delimiter.encode())
    cell = rb'(?>"[^"]*+(?:""[^"]*+)*+"[^%s\r\n]*+|[^"%s\r\n][^%s\r\n]*+|)' % (mark, mark, mark)
    return re.compile(rb"%s(?:%s%s)*+(?:\r\n?|\n)" % (cell, mark, cell))


def blocks(stream: Any, row: re.Pattern[bytes], piece: int | None = None) -> Iterator[list[Row]]:
    """The rows of a file in blocks.

    Raises:
        ValueError: A row does not end within 4 MiB, or not before the file does.
    """
    rest, line, ended = b"", 1, False
    while not ended:
        data = bytes(stream.read(piece or PIECE))
        ended = not data
        text = (rest + data).removeprefix(BOM if line == 1 else b"")
        if ended and text and text[-1:] not in b"\r\n":
            text += b"\n"
        found, at = [], 0
        while (match := row.match(text, at)) and (ended or match.end() < len(text) or text[-1:] == b"\n"):
            found.append(Row(line, match[0]))
            line, at = line + _breaks(match[0]), match.end()
        if found:
            yield found
        rest = text[at:]
        if len(rest) > LONGEST_ROW:
            raise ValueError(f"line {line}: a row of more than {LONGEST_ROW >> 20} MiB, or a quote that nothing closes")
    if rest:
        raise ValueError(f"line {line}: a quote is opened that nothing closes; it took in the rest of the file")


def beginning(stream: Any, row: re.Pattern[bytes], size: int) -> list[Row]:
    """The whole rows among the first bytes of a file."""
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


def _breaks(text: bytes) -> int:
    return text.count(b"\n") + text.count(b"\r") - text.count(b"\r\n")


def filled(rows: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """The blocks without blank lines."""
    return ([row for row in block if row.text.strip(b"\r\n")] for block in rows)


def headed(rows: Iterator[list[Row]]) -> tuple[bytes, Iterator[list[Row]]]:
    """The first row, and the blocks of those behind it."""
    first = next((block for block in rows if block), None)
    if first is None:
        raise ValueError("its first row, the names of its columns, does not end")
    return first[0].text, chain([first[1:]], rows)


def parsed(block: Sequence[Row], parse: Parse) -> Iterator[Good | Guilty]:
    """What parsing gives for a block, in pieces around the rows that cannot be parsed."""

    def attempt(start: int, end: int) -> list[Tried]:
        try:
            return [Good(start, end, parse(block[start:end]))]
        except ValueError as error:
            return [Failed(start, end, error)]

    return isolate(0, len(block), attempt) if block else iter(())


def salvaged(rows: Iterator[list[Row]], parse: Parse, names: Sequence[str] = ()) -> Items:
    """Tables and unreadable rows in the order of the file, each with the number of its (first) row."""
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
    """A row that cannot be parsed, with its line and column in what is said of it."""
    text = row.text.rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    return Unreadable(number, text, f"line {row.line}: {_plainly(str(error), names)}")


def _plainly(told: str, names: Sequence[str]) -> str:
    """Without pyarrow's numbers of rows, which are those of a block; columns by their names."""
    bare = re.sub(r" in row \d+|Row #\d+: |rows \d+ to \d+: |CSV parse error: |JSON parse error: ", "", told)
    return re.sub(r"In CSV column #(\d+)", lambda at: f"column {names[int(at[1])]!r}" if names else at[0], bare)


def continued(fast: Numbered, again: Callable[[], Items], *, tolerant: bool) -> Items:
    """What a reader yields; where it fails, what reading the file again yields from there on.

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
    for first, item in again():
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


def sound_rows(
    block: Sequence[Row], parse: Parse, failure: Exception, names: Sequence[str], remedy: str, *, tolerant: bool
) -> bytes:
    """The text of the rows at the beginning of a file that can be parsed.

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
        if not good and len(reasons) >= HOPELESS:
            break
    if not reasons:
        raise failure
    if not good:
        raise ValueError(f"none of its first {len(reasons)} rows can be parsed: {reasons[0]}{remedy}") from failure
    return b"".join(good)


def texts(rows: Iterator[list[Row]], numbers: Sequence[int]) -> Mapping[int, str]:
    """The text of the rows of these numbers."""
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
