"""Opens input files in the way that is fastest for pyarrow: natively on the local disk, through fsspec elsewhere."""

from __future__ import annotations

import contextlib
import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.sources.signature import HEAD, refuse_other
from runner.storage.folder import Fetch, range_fetcher
from runner.storage.locations import is_local, locate
from runner.types import Input

CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4", "br": "brotli"}
REMOTE_BLOCK_BYTES = 8 * 1024**2
NEAR_BYTES = 1024**2  # reading a gap of this size takes less time than sending another request
FOOTER_BYTES = 64 * 1024  # of the end of a Parquet file: what pyarrow reads first


@contextlib.contextmanager
def open_stored(path: str, options: Mapping[str, Any], block: int = REMOTE_BLOCK_BYTES) -> Iterator[Any]:
    """Open a file as it is stored, without decompressing it. `block` is how many bytes of a remote file are read at once."""
    import pyarrow as pa

    if is_local(path):
        with pa.OSFile(path) as native:
            yield native
    else:
        fs, inside = locate(path, options)
        with fs.open(inside, "rb", block_size=block) as file:
            yield pa.PythonFile(file, mode="r")


@contextlib.contextmanager
def open_text(
    path: str,
    options: Mapping[str, Any],
    block: int = REMOTE_BLOCK_BYTES,
    refuse: Callable[[bytes, str | None], None] = refuse_other,
) -> Iterator[Any]:
    """Open a text file, decompressed as its extension says. `refuse` is given its first bytes as stored, and the codec.

    Raises:
        ValueError: The file holds no text, or is not compressed as its extension says.
    """
    import pyarrow as pa

    codec = codec_of(path)
    with open_stored(path, options, block) as stored:
        head = bytes(stored.read(HEAD))
        refuse(head, codec)
        whole = _rewound(stored) if is_local(path) else pa.PythonFile(Rejoined(head, stored), mode="r")
        if codec is None:
            yield whole
        else:
            with pa.CompressedInputStream(whole, codec) as stream:
                yield stream


def read_whole(file: Input, options: Mapping[str, Any]) -> bytes:
    """Return all bytes of a file, as it is stored: one request, where it is remote."""
    if is_local(file.name):
        return Path(file.name).read_bytes()
    fs, inside = locate(file.name, options)
    return bytes(fs.cat_file(inside))


def codec_of(path: str) -> str | None:
    """Return how a text file is compressed, by its extension; `None` if it is not."""
    return CODECS.get(path.rpartition(".")[2])


@contextlib.contextmanager
def open_part(file: Input, options: Mapping[str, Any], begin: int, end: int, before: bytes = b"") -> Iterator[Any]:
    """Open the bytes of a file from `begin` to `end`, with others put before them."""
    length = end - begin
    if length <= REMOTE_BLOCK_BYTES and not is_local(file.name):
        [data] = range_fetcher(file.name, options, file.version)([(begin, end)])
        yield io.BytesIO(before + bytes(data))
        return
    with open_stored(file.name, options) as stored:
        stored.seek(begin)
        yield Rejoined(before, Limited(stored, length))


class Limited(io.RawIOBase):
    """The next so many bytes of a stream."""

    def __init__(self, stream: Any, length: int) -> None:
        """Take the stream."""
        self._stream, self._left = stream, length

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        wanted = self._left if size is None or size < 0 else min(size, self._left)
        data = bytes(self._stream.read(wanted)) if wanted else b""
        self._left -= len(data)
        return data


def _rewound(stored: Any) -> Any:
    stored.seek(0)
    return stored


class Rejoined(io.RawIOBase):
    """A stream whose beginning was read already, put in front of the rest: not every remote file can seek back to its start."""

    def __init__(self, head: bytes, rest: Any) -> None:
        """Take the beginning and the stream after it."""
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        head, self._head = self._head, b""
        if 0 <= size <= len(head):
            self._head = head[size:]
            return head[:size]
        return head + bytes(self._rest.read(size - len(head) if size >= 0 else None))


@contextlib.contextmanager
def open_ranges(
    file: Input, options: Mapping[str, Any], small: int = FOOTER_BYTES
) -> Iterator[tuple[Any, Ranges | None]]:
    """Open a file for reading at several places, and the object that fetches ranges of a remote file ahead.

    Args:
        file: The file.
        options: fsspec's storage options.
        small: A remote file of at most so many bytes is fetched whole; of a larger one only the footer is fetched here.

    Yields:
        The open file, and its `Ranges`; `None` instead of these for a local file or one in memory, where fetching ahead gains nothing.
    """
    import pyarrow as pa

    if is_local(file.name):
        with pa.OSFile(file.name) as native:
            yield native, None
    else:
        fetch = range_fetcher(file.name, options, file.version)
        if file.size <= small:
            yield pa.BufferReader(fetch([(0, file.size)])[0]), None
            return
        ranges = Ranges(fetch, file.size)
        ranges.prefetch([(file.size - FOOTER_BYTES, file.size)])
        yield pa.PythonFile(ranges, mode="r"), ranges


class Ranges:
    """A remote file for reading, of which some ranges were fetched ahead and are in memory; all of them in parallel.

    pyarrow reads a row group column by column, each with a request that it waits for: 20 columns cost 20 times the latency of the
    storage. Its own `pre_buffer` has no limit on the memory that it takes. So the caller says before each row group which ranges it will
    read (`prefetch`): they are merged where they lie near each other, fetched in parallel, and replace those of the row group before. A
    read outside of them is a request of its own; it is slower, not wrong.

    The file's size must be right. Whether a change of the file while it is read is noticed depends on `fetch`.
    """

    closed = False

    def __init__(self, fetch: Fetch, size: int) -> None:
        """Take what fetches ranges of a file, and the file's size in bytes, which spares the request that asks for it."""
        self._fetch, self._size, self._at = fetch, size, 0
        self._held: list[tuple[int, memoryview]] = []

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch these ranges, each (start, end) in bytes, and forget those of the last call; nothing is fetched if all are in memory."""
        if ranges and all(self._holder(start, end) for start, end in ranges):
            return
        near = list(merge_ranges(ranges))
        self._held = []  # before the new ones are fetched, so that two sets are never in memory at once
        self._held = list(zip((start for start, _ in near), self._fetch(near), strict=True))

    def read(self, size: int = -1) -> memoryview:
        """Read from memory if the range was fetched, without a copy; else from the storage."""
        end = self._size if size < 0 else min(self._size, self._at + size)
        start, self._at = self._at, max(self._at, end)
        if end <= start:
            return memoryview(b"")
        first, data = self._holder(start, end) or (start, self._fetch([(start, end)])[0])
        return data[start - first : end - first]

    def _holder(self, start: int, end: int) -> tuple[int, memoryview] | None:
        """Return the piece in memory that contains this range, with its first position in the file."""
        index = bisect_right(self._held, start, key=lambda each: each[0]) - 1
        if index < 0:
            return None
        first, data = self._held[index]
        return (first, data) if end <= first + len(data) else None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, as files do."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def close(self) -> None:
        """Forget the ranges in memory."""
        self._held = []

    def seekable(self) -> bool:
        """Return `True`."""
        return True

    def readable(self) -> bool:
        """Return `True`."""
        return True

    def writable(self) -> bool:
        """Return `False`."""
        return False


def merge_ranges(ranges: Sequence[tuple[int, int]], near: int = NEAR_BYTES) -> Iterator[tuple[int, int]]:
    """Yield the ranges in order, with those that overlap or lie at most `near` bytes apart merged into one."""
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
