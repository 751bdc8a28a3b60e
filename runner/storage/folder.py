"""Files on any fsspec storage: read, listed, and published in one atomic step.

What is published appears whole or not at all; `publishing` says how.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Any

from runner.storage.locations import find_files, info, locate, on_disk, protocol, stream_files
from runner.storage.publishing import (
    OBJECT_STORES,
    Measured,
    create_by_link,
    create_checked,
    create_object,
    publish_by_rename,
    publish_object,
    told,
)
from runner.storage.transience import retrying
from runner.types import Seal


@contextlib.contextmanager
def open_input(
    uri: str, options: Mapping[str, Any] | None = None, compression: str | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for reading; `compression="infer"` goes by the extension."""
    fs, path = locate(uri, options)
    with fs.open(path, "rb", compression=compression) as file:
        yield file


def artifact_files(uri: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """The files an artifact consists of, sorted: itself, or all below it."""
    fs, path = locate(uri, options)
    return sorted(find_files(fs, path)) if fs.isdir(path) else [path]


def digest(uri: str, options: Mapping[str, Any] | None = None) -> str:
    """`sha256:...` of a file, or of all files of a folder with their names."""
    fs, root = locate(uri, options)
    total = hashlib.sha256()
    for path in artifact_files(uri, options):
        total.update(path.removeprefix(root).encode())
        with fs.open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                total.update(chunk)
    return f"sha256:{total.hexdigest()}"


@dataclass(frozen=True)
class Folder:
    """A folder on some storage. What goes wrong is an `OSError` that names the path.

    What handles whole small files tries transient errors again by itself; `publish`, whose content streams past, does not.

    Attributes:
        root: Absolute path or URI.
        options: fsspec's storage options.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def path(self, name: str = "") -> str:
        """Full path of a name below the root, for people."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def names(self, below: str = "") -> dict[str, int]:
        """Every file at any depth: path below the root to size in bytes, -1 where it is unknown. One fresh listing, whole or an error."""
        fs, root = _open(self)
        with told(self.path(below)):
            try:
                found = retrying(lambda: _sizes(fs, f"{root}/{below}".rstrip("/") or "/"))
            except FileNotFoundError:
                return {}
            if root in found or (not found and _is_file(fs, root)):
                raise NotADirectoryError(errno.ENOTDIR, "is a file, a folder is expected", self.root)
        return {path.removeprefix(root).lstrip("/"): size for path, size in found.items()}

    def read(self, name: str) -> bytes | None:
        """The content, `None` if there is no such file."""
        fs, root = _open(self)
        with told(self.path(name)):
            try:
                return bytes(retrying(lambda: fs.cat_file(f"{root}/{name}")))
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read the content from, piece by piece."""
        with told(self.path(name)), open_input(self.path(name), self.options) as file:
            yield file

    def holds(self, seal: Seal) -> bool:
        """Whether the file that the seal names is there and begins as it says: one small read."""
        fs, root = _open(self)
        with told(self.path(seal.name)):
            try:
                return bool(retrying(lambda: _head(fs, f"{root}/{seal.name}", len(seal.begins))) == seal.begins)
            except FileNotFoundError:
                return False

    def delete(self, name: str) -> None:
        """Delete a file; none is fine."""
        fs, root = _open(self)
        with told(self.path(name)), contextlib.suppress(FileNotFoundError):
            retrying(lambda: fs.rm_file(f"{root}/{name}"))

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[Measured]:
        """A file to write that appears under its name, replacing what was there, only when the block ends well."""
        fs, root = _open(self)
        how = publish_object if protocol(fs) in OBJECT_STORES else publish_by_rename
        with how(fs, f"{root}/{name}", self.path(name)) as file:
            yield file

    def replace(self, name: str, data: bytes) -> None:
        """Publish these bytes."""
        retrying(lambda: self._replace(name, data))

    def _replace(self, name: str, data: bytes) -> None:
        with self.publish(name) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Publish these bytes unless the name is taken; whether they were. Atomic where the store can be.

        A try whose answer was lost may have taken the name itself: `False` need not mean that somebody else did.
        """
        fs, root = _open(self)
        create = create_by_link if on_disk(fs) else create_object if protocol(fs) in OBJECT_STORES else create_checked
        with told(self.path(name)):
            return retrying(lambda: create(fs, f"{root}/{name}", data))


@lru_cache(maxsize=16)
def _opened(root: str, options: str, pid: int) -> tuple[Any, str]:  # noqa: ARG001 (async file systems do not survive a fork)
    fs, path = locate(root, json.loads(options))
    return fs, path.rstrip("/")


def _open(store: Folder) -> tuple[Any, str]:
    return _opened(store.root, json.dumps(dict(store.options), sort_keys=True, default=str), os.getpid())


def _head(fs: Any, path: str, size: int) -> bytes:
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
