"""Files that appear whole or not at all, on each kind of storage; `Store` chooses among these.

On a local disk that is a sibling temporary file, fsync and a rename; on an object store it is the commit of an upload,
discarded on any error; elsewhere (HDFS, SFTP) a temporary file and a move.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from runner.storage.locations import on_disk
from runner.storage.transience import is_transient
from runner.types import Written

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"})
CREATE_BLOCK = 64 * 1024**2  # one request creates up to this: only that is exclusive on every S3
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_CREATING = threading.Lock()


class TakenOver(OSError):
    """What was written is not published: the folder belongs to another job by now."""


# What is asked right before a file appears, in the thread that publishes it. It is not an argument because a sink stands in between,
# whose `write` says nothing of it: so each sink that publishes by a `Store` is asked, also one that was written by somebody else.
_asked: ContextVar[Callable[[], None] | None] = ContextVar("asked", default=None)


@contextlib.contextmanager
def asking(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` right before each file that this thread publishes within the block; what it raises keeps the file back."""
    token = _asked.set(ask)
    try:
        yield
    finally:
        _asked.reset(token)


def _ask() -> None:
    if (ask := _asked.get()) is not None:
        ask()


class Measured:
    """A binary file for writing that counts and hashes what passes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap an open file."""
        self._file, self._hash, self._bytes = file, hashlib.sha256(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Write all of a bytes-like object."""
        view = memoryview(data)
        self._hash.update(view)
        self._bytes += view.nbytes
        self._file.write(data)
        return view.nbytes

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Never: what is written is hashed in order."""
        return False

    def flush(self) -> None:
        """Leave buffering to the file below."""

    def close(self) -> None:
        """Leave closing to whoever opened the file below: closing might publish it."""
        self.closed = True

    def written(self) -> Written:
        """Size and checksum so far."""
        return Written(self._bytes, f"sha256:{self._hash.hexdigest()}")


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Errors of a storage, whatever package they come from, as the `OSError` of their kind that names the path."""
    try:
        yield
    except PermissionError as error:
        if path in str(error):
            raise
        raise PermissionError(f"{path}: access refused: {error} (storage_options hold the credentials)") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: {error}") from error
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.startswith(("botocore", "aiobotocore", "aiohttp", "azure", "google", "gcsfs")):
            kind = (
                ConnectionError if is_transient(error) else PermissionError if "Credential" in repr(error) else OSError
            )
            raise kind(f"{path}: {error}") from error
        raise


# ---------------------------------------------------------------- publishing


def _temporary(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"


@contextlib.contextmanager
def publish_by_rename(fs: Any, path: str, shown: str) -> Iterator[Measured]:
    temporary = _temporary(path)
    with told(shown):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(temporary, "wb") as file:
            yield (measured := Measured(file))
            _sync(fs, file)
        measured.close()
        _ask()
        _move(fs, temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rm_file(temporary)
        raise


def _sync(fs: Any, file: Any) -> None:
    file.flush()
    if on_disk(fs):
        os.fsync(file.fileno())


def _move(fs: Any, old: str, new: str) -> None:
    from fsspec.spec import AbstractFileSystem

    if on_disk(fs):
        os.replace(old, new)  # noqa: PTH105
    elif type(fs).mv is AbstractFileSystem.mv:  # which takes names for patterns
        fs.cp_file(old, new)
        fs.rm_file(old)
    else:
        fs.mv(old, new)


@contextlib.contextmanager
def publish_object(fs: Any, path: str, shown: str) -> Iterator[Measured]:
    """Upload, in one request if it is small; closing commits, so only what ended well is closed."""
    with told(shown):
        file = fs.open(path, "wb")
    try:
        yield Measured(file)
        _ask()
        with told(shown):
            file.close()
    except BaseException:
        _discard(file)
        raise


def _discard(file: Any) -> None:
    with contextlib.suppress(Exception):  # the first error is the one to tell
        file.discard()
    file.closed = True  # or the garbage collector would flush, and thereby publish, what was written


# ---------------------------------------------------------------- creating, if absent


def create_by_link(_: Any, path: str, data: bytes) -> bool:
    target, temporary = Path(path), Path(_temporary(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return _link(target, temporary, data)
    finally:
        temporary.unlink(missing_ok=True)


def _link(target: Path, temporary: Path, data: bytes) -> bool:
    try:
        target.hardlink_to(temporary)  # unlike a rename, a link never replaces
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _create_exclusively(target, data)
    return True


def _create_exclusively(target: Path, data: bytes) -> bool:
    """For disks without links: one wins, but a reader may see it half written."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def create_object(fs: Any, path: str, data: bytes) -> bool:
    try:
        file = fs.open(path, "xb", block_size=max(CREATE_BLOCK, len(data) + 1))
    except FileExistsError:
        return False
    except (ValueError, NotImplementedError):
        return create_checked(fs, path, data)
    try:
        file.write(data)
        file.close()
    except BaseException as error:
        _discard(file)
        if isinstance(error, Exception) and _is_taken(error):
            return False
        raise
    return True


def _is_taken(error: Exception) -> bool:
    """Whether the store refused because the name is taken; s3fs knows only AWS's own wording."""
    answer = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in {"PreconditionFailed", "412"}


def create_checked(fs: Any, path: str, data: bytes) -> bool:
    """The best that a store without exclusive creation has; atomic among the threads of this process."""
    with _CREATING:
        if fs.exists(path):
            return False
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with publish_by_rename(fs, path, path) as file:
            file.write(data)
        return True
