"""Input files opened the way pyarrow reads them fastest: natively on the local disk, through fsspec elsewhere."""

from __future__ import annotations

import contextlib
import io
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.sources.signature import HEAD, refuse_other
from runner.storage.locations import is_local, locate
from runner.types import Input

CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4", "br": "brotli"}
REMOTE_BLOCK = 8 * 1024**2
NEAR = 1024**2  # what costs less to read along than another request
FOOTER = 64 * 1024  # what pyarrow reads first of a Parquet file


@contextlib.contextmanager
def opened(path: str, options: Mapping[str, Any], block: int = REMOTE_BLOCK) -> Iterator[Any]:
    """A file as it is stored; elsewhere than on the local disk, `block` bytes are read at once."""
    import pyarrow as pa

    if is_local(path):
        with pa.OSFile(path) as native:
            yield native
    else:
        fs, inside = locate(path, options)
        with fs.open(inside, "rb", block_size=block) as file:
            yield pa.PythonFile(file, mode="r")


@contextlib.contextmanager
def opened_text(path: str, options: Mapping[str, Any], block: int = REMOTE_BLOCK) -> Iterator[Any]:
    """A file decompressed by its extension.

    Raises:
        ValueError: It holds no text, or is not compressed so.
    """
    import pyarrow as pa

    codec = CODECS.get(path.rpartition(".")[2])
    with opened(path, options, block) as stored:
        head = bytes(stored.read(HEAD))
        refuse_other(head, codec)
        whole = _rewound(stored) if is_local(path) else pa.PythonFile(Rejoined(head, stored), mode="r")
        if codec is None:
            yield whole
        else:
            with pa.CompressedInputStream(whole, codec) as stream:
                yield stream


def _rewound(stored: Any) -> Any:
    stored.seek(0)
    return stored


class Rejoined(io.RawIOBase):
    """A stream whose beginning was read already: not every remote file can be read from its start again."""

    def __init__(self, head: bytes, rest: Any) -> None:
        """Take the beginning and the stream behind it."""
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        head, self._head = self._head, b""
        if 0 <= size <= len(head):
            self._head = head[size:]
            return head[:size]
        return head + bytes(self._rest.read(size - len(head) if size >= 0 else None))


@contextlib.contextmanager
def opened_ranges(file: Input, options: Mapping[str, Any], small: int = FOOTER) -> Iterator[tuple[Any, Ranges | None]]:
    """A file that is read here and there; elsewhere than on the local disk, with what fetches ranges ahead.

    Its footer is fetched at once, and all of it if it is no larger than `small` bytes.
    """
    import pyarrow as pa

    if is_local(file.name):
        with pa.OSFile(file.name) as native:
            yield native, None
    else:
        fs, inside = locate(file.name, options)
        ranges = Ranges(fs, inside, file.size)
        ranges.hold([(0 if file.size <= small else file.size - FOOTER, file.size)])
        yield pa.PythonFile(ranges, mode="r"), ranges


class Ranges:
    """A remote file for reading, of which some ranges are held; fetched at once, which hides the latency of each."""

    closed = False

    def __init__(self, fs: Any, path: str, size: int) -> None:
        """Take a file of known size: that spares a request."""
        self._fs, self._path, self._size, self._at = fs, path, size, 0
        self._held: list[tuple[int, bytes]] = []

    def hold(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Hold these ranges, each (start, end), instead of those held before, unless those hold them."""
        if ranges and all(self._holder(start, end) for start, end in ranges):
            return
        near = list(merged(ranges))
        starts, ends = [start for start, _ in near], [end for _, end in near]
        self._held = []  # first, so that two sets are never held at once
        pieces = self._fs.cat_ranges([self._path] * len(near), starts, ends, on_error="raise")
        self._held = list(zip(starts, pieces, strict=True))

    def read(self, size: int = -1) -> bytes:
        """Read from what is held, else from the storage."""
        end = self._size if size < 0 else min(self._size, self._at + size)
        start, self._at = self._at, max(self._at, end)
        return b"" if end <= start else self._of_held(start, end) or self._fetch(start, end)

    def _of_held(self, start: int, end: int) -> bytes | None:
        holder = self._holder(start, end)
        return holder[1][start - holder[0] : end - holder[0]] if holder else None

    def _holder(self, start: int, end: int) -> tuple[int, bytes] | None:
        """What is held that has this range, and where it starts."""
        index = bisect_right(self._held, start, key=lambda each: each[0]) - 1
        if index < 0:
            return None
        first, data = self._held[index]
        return (first, data) if end <= first + len(data) else None

    def _fetch(self, start: int, end: int) -> bytes:
        return bytes(self._fs.cat_file(self._path, start=start, end=end))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, as files do."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def close(self) -> None:
        """Let go of what is held."""
        self._held = []

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
        """Never."""
        return False


def merged(ranges: Sequence[tuple[int, int]], near: int = NEAR) -> Iterator[tuple[int, int]]:
    """The ranges in order, those that overlap or lie near each other as one."""
    held: tuple[int, int] | None = None
    for start, end in sorted(ranges):
        if held is not None and start <= held[1] + near:
            held = (held[0], max(held[1], end))
        else:
            if held is not None:
                yield held
            held = (start, end)
    if held is not None:
        yield held
