"""Reads the lines of text files as a column `text`: UTF-8, or another encoding that the config names."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError
from runner.sources import cutting
from runner.sources.formats import FileContents, Items
from runner.sources.lines import BOM
from runner.sources.opening import codec_of, open_part, open_text
from runner.sources.signature import WEB, kind_of, refuse_other
from runner.types import Fragment, Input, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

PIECE_BYTES = 1024**2  # bytes that are read at a time
FIRST_BYTES = 64 * 1024  # bytes that are decoded before the job runs
LONGEST_LINE_BYTES = 64 * 1024**2
REMEDY = "source.encoding names another encoding, such as cp1252"


@dataclass(frozen=True)
class Text:
    """Reads text files line by line: `text` is a line without its end, `path` the file.

    A line ends with a line feed; a carriage return before that belongs to the end. An empty line is a row.

    Attributes:
        encoding: Python's name of the encoding.
        tolerant: Whether a line that is not UTF-8 is yielded as `Unreadable`; else it is an error of the file.
    """

    encoding: str = "utf-8"
    tolerant: bool = False

    def __post_init__(self) -> None:
        """Refuse an encoding that Python does not know."""
        try:
            codecs.getincrementaldecoder(self.encoding)
        except LookupError:
            raise ConfigError(
                f"source.encoding={self.encoding}: Python knows no such encoding; expected one such as utf-8, utf-16, cp1252 or latin-1"
            ) from None

    @property
    def _is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in {"utf-8", "utf-8-sig", "ascii"}

    def inspect(self, file: Input, options: Mapping[str, Any]) -> FileContents:
        """Read the beginning: whether it is text in this encoding."""
        import pyarrow as pa

        schema = pa.schema([("text", pa.string()), ("path", pa.string())])
        if file.size == 0:
            return FileContents([Fragment(file, 0, 0)], schema)
        with self._open(file, options, FIRST_BYTES) as stream:
            begin = bytes(stream.read(FIRST_BYTES))
        if not (self.tolerant and self._is_utf8):
            self._refuse_undecodable(begin)
        whole = file.size == len(begin)
        count = begin.count(b"\n") * (1 if whole else file.size / max(1, len(begin)))
        about = None if codec_of(file.name) else max(1, int(count))
        return FileContents([Fragment(file, file.size, about_rows=about)], schema)

    def divide(
        self, fragment: Fragment, options: Mapping[str, Any], most_bytes: int | None, most_rows: int | None
    ) -> list[Fragment]:
        """Return the file in ranges of bytes, each of whole lines. In other encodings than UTF-8 a line feed may be half a character."""
        if not self._is_utf8:
            return [fragment]
        return cutting.split_text(fragment, options, most_bytes, most_rows, cutting.line_start)

    def rows_before(self, fragment: Fragment, options: Mapping[str, Any], schema: pa.Schema) -> int:  # noqa: ARG002
        """Return how many lines of the file come before a fragment."""
        begin, _ = cutting.range_of(fragment)
        return cutting.count_line_feeds(fragment.input, options, begin)

    def _refuse_undecodable(self, begin: bytes) -> None:
        try:
            codecs.getincrementaldecoder(self.encoding)().decode(begin)
        except UnicodeDecodeError as wrong:
            raise ValueError(self._problem(1 + begin.count(b"\n", 0, wrong.start), wrong)) from wrong

    def _problem(self, line: int, wrong: UnicodeDecodeError) -> str:
        return f"line {line}: is not {self.encoding} ({wrong.reason}: {wrong.object[wrong.start : wrong.start + 1]!r}); {REMEDY}"

    def read(
        self,
        fragment: Fragment,
        schema: pa.Schema,
        options: Mapping[str, Any],
        keep: pa.Expression | None,  # noqa: ARG002
    ) -> Items:
        """Stream the file; a block of lines is one table."""
        import pyarrow as pa

        first = 0
        begin, end = cutting.range_of(fragment)
        whole = (begin, end) == (0, fragment.input.size)
        before = partial(self.rows_before, fragment, options, schema)
        with self._open(fragment.input, options) if whole else open_part(fragment.input, options, begin, end) as stream:
            for block in whole_lines(self._in_utf8(stream, begun=begin > 0), before):
                for item in self._lines(block, first, before):
                    if isinstance(item, Unreadable):
                        yield first, item
                    else:
                        path = pa.repeat(pa.scalar(fragment.input.name), len(item))
                        yield first, pa.table({"text": item, "path": path})
                    first += 1 if isinstance(item, Unreadable) else len(item)

    def _open(self, file: Input, options: Mapping[str, Any], block: int = 0) -> Any:
        refuse = partial(_refuse_other, any_text=not self._is_utf8)
        return open_text(file.name, options, **({"block": block} if block else {}), refuse=refuse)

    def _in_utf8(self, stream: Any, *, begun: bool = False) -> Iterator[bytes]:
        """Yield the content piece by piece, in UTF-8 and without a byte order mark."""
        decoder = None if self._is_utf8 else codecs.getincrementaldecoder(self.encoding)()
        while data := bytes(stream.read(PIECE_BYTES)):
            piece = data if decoder is None else self._decoded(decoder, data)
            yield piece if begun else piece.removeprefix(BOM)
            begun = True
        if decoder is not None:
            yield self._decoded(decoder, b"", final=True)

    def _decoded(self, decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bytes:
        try:
            return decoder.decode(data, final).encode()
        except UnicodeError as wrong:
            raise ValueError(f"is not {self.encoding}: {wrong}; {REMEDY}") from wrong

    def _lines(self, block: bytes, first: int, before: Callable[[], int]) -> Iterator[pa.Array | Unreadable]:
        """Yield the lines of a block as arrays, around those that are not UTF-8."""
        import pyarrow as pa

        try:
            yield split_lines(block)
        except pa.ArrowInvalid:
            yield from self._around_bad_lines(block.split(b"\n")[:-1], first, before())

    def _around_bad_lines(self, lines: Sequence[bytes], first: int, before: int) -> Iterator[pa.Array | Unreadable]:
        import pyarrow as pa

        good: list[str] = []
        for number, line in enumerate(lines, first):
            try:
                good.append(line.decode())
            except UnicodeDecodeError as wrong:
                problem = self._problem(before + number + 1, wrong)
                if not self.tolerant:
                    raise ValueError(problem) from wrong
                if good:
                    yield pa.array(good, pa.string())
                good = []
                yield Unreadable(number, line.decode("utf-8", "backslashreplace"), problem)
        if good:
            yield pa.array(good, pa.string())

    def row_texts(self, file: Input, options: Mapping[str, Any], numbers: Sequence[int]) -> Mapping[int, str]:
        """Return the lines of these numbers."""
        wanted, found, first = set(numbers), dict[int, str](), 0
        with self._open(file, options) as stream:
            for block in whole_lines(self._in_utf8(stream)):
                lines = block.split(b"\n")[:-1]
                inside = wanted.intersection(range(first, first + len(lines)))
                found.update((each, lines[each - first].decode("utf-8", "backslashreplace")) for each in inside)
                first += len(lines)
        return found


def _refuse_other(head: bytes, codec: str | None, *, any_text: bool) -> None:
    """Refuse what is no text by its first bytes. A web page is text here; so is UTF-16 where the config names an encoding."""
    found, _ = kind_of(head) or ("", "")
    if found == "UTF-16 text" and not any_text:
        raise ValueError(f"it begins like {found}: source.encoding=utf-16 reads it")
    if found not in {WEB[0], "UTF-16 text"}:
        refuse_other(head, codec)


def whole_lines(pieces: Iterator[bytes], before: Callable[[], int] = int) -> Iterator[bytes]:
    r"""Yield the same bytes in blocks of whole lines, each of which ends with `\n` alone.

    Args:
        pieces: Of the text.
        before: Returns how many lines of the file come before them, for a message.

    Raises:
        ValueError: A line is too long to be held in memory.
    """
    rest, lines = b"", 0
    for piece in pieces:
        text, mark, after = (rest + piece).rpartition(b"\n")
        if mark:
            block = (text + mark).replace(b"\r\n", b"\n")
            lines += block.count(b"\n")
            yield block
        rest = after
        if len(rest) > LONGEST_LINE_BYTES:
            raise ValueError(f"line {before() + lines + 1}: a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
    if rest:
        yield rest + b"\n"


def split_lines(block: bytes) -> pa.Array:
    """Return the lines of a block.

    Raises:
        ArrowInvalid: The block is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.split_pattern(pa.array([block]).cast(pa.string()), "\n").flatten()[:-1]
