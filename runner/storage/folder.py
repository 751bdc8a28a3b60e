"""Reads, lists, deletes and atomically publishes files below one folder of any fsspec storage.

A published file appears whole or not at all; `publishing` says how.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Any, ClassVar

from runner.storage import hdfs
from runner.storage.locations import locate, on_disk, protocol
from runner.storage.publishing import (
    OBJECT_STORES,
    HashingFile,
    create_after_check,
    create_by_link,
    create_by_rename,
    create_object,
    publication_asks,
    publish_by_rename,
    publish_object,
    translated_errors,
)
from runner.storage.transience import retrying
from runner.storage.walking import find_files, info, stream_files
from runner.types import Seal

DIGEST_BYTES = 1024**2  # bytes that are read and hashed at a time


@contextlib.contextmanager
def open_input(
    uri: str, options: Mapping[str, Any] | None = None, compression: str | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes.

    Args:
        uri: Local path or URI.
        options: fsspec's storage options.
        compression: fsspec's name of a codec; `"infer"` takes it from the file's extension.

    Yields:
        The open file.
    """
    fs, path = locate(uri, options)
    with fs.open(path, "rb", compression=compression) as file:
        yield file


Fetch = Callable[[Sequence[tuple[int, int]]], list[memoryview]]
"""Returns the bytes of ranges of a file, each (start, end)."""


def range_fetcher(uri: str, options: Mapping[str, Any], version: str) -> Fetch:
    """Return what fetches ranges of a remote file, several at the same time.

    On S3 by obstore, each request names the version that was listed, so that a change is an error and never a mixture.

    Args:
        uri: Of the file.
        options: fsspec's storage options.
        version: As it was listed: an etag on S3.
    """
    fs, path = locate(uri, options)
    if hasattr(fs, "fetch_ranges"):
        return lambda ranges: list(fs.fetch_ranges(path, ranges, version))

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        starts, ends = [start for start, _ in ranges], [end for _, end in ranges]
        return [memoryview(each) for each in fs.cat_ranges([path] * len(ranges), starts, ends, on_error="raise")]

    return fetch


def artifact_files(uri: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Return the sorted paths of an artifact's files: the file itself, or all files below a folder."""
    fs, path = locate(uri, options)
    return sorted(find_files(fs, path)) if fs.isdir(path) else [path]


def digest(uri: str, options: Mapping[str, Any] | None = None) -> str:
    """Return `sha256:<hex>` of a file's content, or of the names and contents of all files below a folder."""
    fs, root = locate(uri, options)
    total = hashlib.sha256()
    for path in artifact_files(uri, options):
        total.update(path.removeprefix(root).encode())
        with fs.open(path, "rb") as file:
            while chunk := file.read(DIGEST_BYTES):
                total.update(chunk)
    return f"sha256:{total.hexdigest()}"


@dataclass(frozen=True)
class Folder:
    """A folder on some storage. Its methods raise errors of the storage as an `OSError` that names the path.

    Methods that handle a whole small file retry transient errors. `publish` does not, because its content is streamed: only the
    caller can produce that content again.

    Attributes:
        root: Absolute path or URI.
        options: fsspec's storage options.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)
    key: ClassVar[str] = "sink.path"

    @property
    def place(self) -> str:
        """Return the key of the config that gives the root, and the root, for messages."""
        return f"{self.key}={self.root}"

    def path(self, name: str = "") -> str:
        """Return the full path of a name below the root, for messages and for `locate`."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def names(self, below: str = "") -> dict[str, int]:
        """List every file at any depth. The listing is fresh and complete, or an error is raised.

        Args:
            below: List only this folder below the root.

        Returns:
            Path below the root to size in bytes; -1 where the storage does not tell the size.

        Raises:
            OSError: The folder cannot be listed completely, or is a file.
        """
        fs, root = _connect(self)
        with translated_errors(self.path(below)):
            try:
                found = retrying(lambda: _sizes(fs, f"{root}/{below}".rstrip("/") or "/"))
            except FileNotFoundError:
                return {}
            if root in found or (not found and retrying(lambda: _is_file(fs, root))):
                raise NotADirectoryError(errno.ENOTDIR, "is a file, a folder is expected", self.root)
        return {path.removeprefix(root).lstrip("/"): size for path, size in found.items()}

    def read(self, name: str) -> bytes | None:
        """Return a file's content, `None` if there is no such file."""
        fs, root = _connect(self)
        with translated_errors(self.path(name)):
            try:
                return bytes(retrying(lambda: fs.cat_file(f"{root}/{name}")))
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading piece by piece."""
        with translated_errors(self.path(name)), open_input(self.path(name), self.options) as file:
            yield file

    def holds(self, seal: Seal) -> bool:
        """Return whether the file that the seal names exists and begins with the seal's bytes. It costs one small read."""
        fs, root = _connect(self)
        with translated_errors(self.path(seal.name)):
            try:
                return bool(retrying(lambda: _read_head(fs, f"{root}/{seal.name}", len(seal.begins))) == seal.begins)
            except FileNotFoundError:
                return False

    def delete(self, name: str) -> None:
        """Delete a file; a missing file is no error."""
        fs, root = _connect(self)
        with translated_errors(self.path(name)), contextlib.suppress(FileNotFoundError):
            retrying(lambda: fs.rm_file(f"{root}/{name}"))

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[HashingFile]:
        """Open a file for writing that appears under its name, replacing what was there, only if the block ends without an error."""
        fs, root = _connect(self)
        how = publish_object if protocol(fs) in OBJECT_STORES else publish_by_rename
        with publication_asks(), how(fs, f"{root}/{name}", self.path(name)) as file:
            yield file

    def replace(self, name: str, data: bytes) -> None:
        """Publish these bytes under a name, replacing what was there."""
        retrying(lambda: self._replace(name, data))

    def _replace(self, name: str, data: bytes) -> None:
        with self.publish(name) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Publish these bytes only if no file has this name. The check and the creation are one atomic step where the storage offers that.

        Returns:
            Whether the file was created. `False` does not prove that somebody else created it: an earlier try of this call, whose
            answer was lost, may have.
        """
        fs, root = _connect(self)
        create = _creation(fs)
        with translated_errors(self.path(name)):
            return retrying(lambda: create(fs, f"{root}/{name}", data))


def _creation(fs: Any) -> Callable[[Any, str, bytes], bool]:
    """Return how a file system creates a file only if none is there."""
    if on_disk(fs):
        return create_by_link
    if protocol(fs) in hdfs.SCHEMES:
        return create_by_rename
    return create_object if protocol(fs) in OBJECT_STORES else create_after_check


@lru_cache(maxsize=16)
def _connected(root: str, options: str, pid: int) -> tuple[Any, str]:  # noqa: ARG001 (the key holds the pid: async file systems do not survive a fork)
    fs, path = locate(root, json.loads(options))
    return fs, path.rstrip("/")


def _connect(store: Folder) -> tuple[Any, str]:
    return _connected(store.root, json.dumps(dict(store.options), sort_keys=True, default=str), os.getpid())


def _read_head(fs: Any, path: str, size: int) -> bytes:
    if on_disk(fs):
        with fs.open(path, "rb") as file:
            return bytes(file.read(size))
    return bytes(fs.cat_file(path, start=0, end=size))


def _sizes(fs: Any, folder: str) -> dict[str, int]:
    return {
        path: -1 if what["size"] is None else what["size"]
        for path, what in stream_files(fs, folder)
        if what["type"] == "file"
    }


def _is_file(fs: Any, path: str) -> bool:
    there = info(fs, path)
    return there is not None and there["type"] == "file"
