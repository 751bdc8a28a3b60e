"""HDFS, by the package `hdfs-native`: its file system for fsspec, with errors of the kinds that every other storage raises.

The client raises a `RuntimeError` for most of what goes wrong, also where access is refused, with the debug form of its own error as the
text. Nothing else here could tell that from a mistake in somebody's code, or see that it will pass. Files that it opens with a
`block_size` cannot be read piece by piece; so this argument is left out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, wraps
from typing import Any

SCHEMES = frozenset({"hdfs", "viewfs"})
METHODS = ("info", "ls", "mkdir", "mv", "rm", "rmdir", "modified")  # of fsspec's, whose first argument is a path
ANSWER = re.compile(
    r'(?:Fatal)?RPCError\("(?:[\w]+\.)*([\w$]+)", "(.*?)(?:\\n|"\)$)'
)  # a server's: Java class, message
PASSING = re.compile(r"(Standby|Retriable|SafeMode)Exception|DataTransferError|BlocksNotFound|InvalidRPCResponse")


def is_hdfs(uri: str) -> bool:
    """Return whether a URI lies on HDFS."""
    return uri.partition("://")[0].lower() in SCHEMES


def file_system(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URI, and the path within it.

    Args:
        uri: Such as `hdfs://namenode:8020/folder`.
        options: Settings of Hadoop, which are all texts there.

    Raises:
        ImportError: `hdfs-native` is not installed.
    """
    kind = _kind(uri.partition("://")[0].lower())
    given = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}
    return kind(**kind._get_kwargs_from_urls(uri), **given), str(kind._strip_protocol(uri))


@lru_cache(maxsize=2)
def _kind(scheme: str) -> Any:
    """Return the class of file systems, derived from that of `hdfs-native`."""
    from hdfs_native import fsspec

    base = {"hdfs": fsspec.HdfsFileSystem, "viewfs": fsspec.ViewfsFileSystem}[scheme]

    def _open(self: Any, path: str, mode: str = "rb", **more: Any) -> File:
        with translated(path):
            return File(base._open(self, path, mode, **{**more, "block_size": None}), path)

    methods = {name: _translating(getattr(base, name)) for name in METHODS}
    return type("TranslatedHdfs", (base,), {**methods, "_open": _open, "_strip_protocol": staticmethod(path_within)})


def path_within(uri: str) -> str:
    """Return the path that a URI names, also one with `#` and `?`, or the same path."""
    _, mark, rest = uri.partition("://")
    path = f"/{rest.partition('/')[2]}" if mark else uri
    return path.rstrip("/") or "/"


def _translating(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: Any, path: str, *more: Any, **options: Any) -> Any:
        with translated(path):
            return method(self, path, *more, **options)

    return called


class File(io.RawIOBase):
    """A file of `hdfs-native`, open for reading or for writing."""

    def __init__(self, file: Any, path: str) -> None:
        """Take the file, and its path for messages."""
        self._file, self._path = file, path

    def readable(self) -> bool:
        """Return whether it can be read."""
        return bool(self._file.readable())

    def writable(self) -> bool:
        """Return whether it can be written."""
        return bool(self._file.writable())

    def seekable(self) -> bool:
        """Return whether it can be read at any place."""
        return self.readable()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        with translated(self._path):
            return bytes(self._file.read(size))

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Write bytes."""
        with translated(self._path):
            return int(self._file.write(data))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position."""
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        """Return the position."""
        return int(self._file.tell())

    def close(self) -> None:
        """Complete a file that was written; this may fail."""
        if not self.closed:
            try:
                with translated(self._path):
                    self._file.close()
            finally:
                super().close()


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise what the client raises in the block as an `OSError` of the kind that it means.

    Raises:
        PermissionError: Access was refused.
        ConnectionError: What will pass: a NameNode that is starting, DataNodes that cannot be reached.
        OSError: Anything else.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _meaning(error, path) from error


def _meaning(error: Exception, path: str) -> OSError:
    said = (str(error).splitlines() or [""])[0]
    if isinstance(error, OSError):
        number = re.search(r"\(os error (\d+)\)", said)
        return OSError(int(number[1]), said, path) if number else type(error)(f"{path}: {said}")
    if answer := ANSWER.match(str(error)):
        said = f"{answer[1]}: {answer[2]}".replace('\\"', '"')
    if said.startswith("AccessControlException"):
        return PermissionError(errno.EACCES, said, path)
    return (ConnectionError if PASSING.match(said) else OSError)(f"{path}: {said[:300]}")
