"""Detects a quote in a CSV file that is opened and never closed, which pyarrow would take for a long value without an error.

A stray quote at the beginning of a cell makes everything up to the next quote one value, line breaks included. If no other quote
follows, that is the rest of the file. pyarrow reports neither: if the value stays within one block, it returns fewer rows than there
are, and the lost ones are missing in the predictions without a trace.

Counting quotes does not find it. A quote in the middle of an unquoted cell is an ordinary character, so their number tells nothing, and
following pyarrow's rules in Python costs more than pyarrow's parsing. So one more row, the sentinel, is appended behind the last line.
Its number of cells is one that no file has, and pyarrow calls `invalid_row_handler` for a row whose number of cells is not that of the
header. If the parser is outside quotes there, it sees the sentinel as a row and calls the handler, which notes this and skips the row.
If it is within quotes, the sentinel becomes part of the value, and the handler is never called for it.

This breaks if a file has 10,007 columns and a row that begins with the marker, if a version of pyarrow stops calling the handler for the
last row, or if the sentinel gets a quote of its own.
"""

from __future__ import annotations

import io
from typing import Any

UNCLOSED = "a quote is opened that nothing closes"


class WithSentinel(io.RawIOBase):
    """A stream of CSV with one more row behind the last, which the parser sees as a row only if every quote is closed.

    Attributes:
        reached: Whether the parser saw the sentinel as a row.
    """

    MARK, CELLS = "\0end", 10_007

    def __init__(self, stream: Any, delimiter: str) -> None:
        """Take the stream."""
        self.reached = False
        self._stream, self._last = stream, b"\n"
        self._sentinel = f"{self.MARK}{delimiter * (self.CELLS - 1)}\n".encode()

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the stream, and the sentinel once after them, on a line of its own."""
        if data := bytes(self._stream.read(size)):
            self._last = data[-1:]
            return data
        row, self._sentinel = self._sentinel, b""
        return row if not row or self._last in b"\r\n" else b"\n" + row

    def judge(self, row: Any) -> str:
        """Answer pyarrow's `invalid_row_handler`: skip the sentinel, and fail for any other row with a wrong number of cells."""
        self.reached = self.reached or (row.actual_columns == self.CELLS and row.text.startswith(self.MARK))
        return "skip" if self.reached else "error"
