"""Writes files that appear whole or not at all, in the way that each kind of storage offers; `Folder` chooses the way.

- Local disk: a temporary file beside the final one, fsync, rename. A rename replaces the old file in one step, and fsync comes first
  because after a power cut the name could otherwise lead to an empty file.
- Object store: an upload becomes visible when it is completed, so on an error it is aborted instead. There is no rename: it would be
  a copy of all bytes. Where obstore fails while it completes an upload, the blocks that were sent stay until a lifecycle rule of the bucket
  (`AbortIncompleteMultipartUpload`) removes them.
- Elsewhere (HDFS, SFTP): a temporary file and the move that the file system has. On HDFS it replaces the old file in one step.

Creating a file only if none is there is another operation, since a rename and an upload replace what they find: on a local disk a hard
link to a complete temporary file, which fails if the name exists; on an object store a conditional PUT, `If-None-Match: *`; on HDFS a
rename that replaces nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from runner.storage import hdfs
from runner.storage.locations import on_disk, protocol
from runner.storage.transience import is_transient
from runner.types import Written

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"})
CREATE_BYTES = 64 * 1024**2  # a smaller file is created by one PUT: only that can be made conditional on every S3
# Errors of a disk that has no hard links.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_CREATING = threading.Lock()

Item = TypeVar("Item")


class TakenOver(OSError):
    """A file was not published, because its folder belongs to another run by now."""


@dataclass
class _Question:
    """What a thread must ask before a part appears.

    Attributes:
        ask: Raises an error if the part must not appear.
        publishing: How many files this thread is publishing; each asks by itself, right before it appears.
    """

    ask: Callable[[], None]
    publishing: int = 0


# A run that was believed dead may wake up after another run has taken over its sink. So a worker asks whether the sink is still its run's,
# as late as possible: after the last byte of a part is written, and right before the part appears. Asking before the shard begins would
# not do, because minutes may lie between; a time remains even so, but it is one request long.
#
# The question is a context variable and not an argument, because a sink stands between the worker that knows the question and the
# function that publishes. A sink's `write` has no parameter for it, and so every sink asks, also one that somebody else wrote. A sink that
# does not publish by a `Folder` asks when it has consumed its tables (`confirm_at_end`). If a publication has begun by then, this would be
# too early, and a second request for the same part; so the publication asks instead (`publication_asks`).
#
# This breaks if a sink publishes in a thread that it starts itself: a new thread does not see the context variable. The question at the end
# of its tables is asked nevertheless, because the worker's own thread iterates over them.
_question: ContextVar[_Question | None] = ContextVar("question", default=None)


@contextlib.contextmanager
def ask_before_publishing(ask: Callable[[], None]) -> Iterator[None]:
    """Call `ask` right before anything that this thread publishes within the block; an error that it raises keeps that back."""
    token = _question.set(_Question(ask))
    try:
        yield
    finally:
        _question.reset(token)


def confirm() -> None:
    """Make sure that the sink still belongs to this run. A sink may call this in its `write`, right before its part appears.

    Raises:
        TakenOver: Another run has taken over the sink. Nothing may appear.
    """
    if (question := _question.get()) is not None:
        question.ask()


def confirm_at_end(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, then `confirm`, unless a publication has begun, which confirms when it is complete."""
    yield from items
    if (question := _question.get()) is not None and not question.publishing:
        question.ask()


@contextlib.contextmanager
def publication_asks() -> Iterator[None]:
    """Mark a block as a publication, which calls `confirm` itself right before something appears."""
    question = _question.get()
    if question is None:
        yield
        return
    question.publishing += 1
    try:
        yield
    finally:
        question.publishing -= 1


class HashingFile:
    """A binary file for writing that counts and hashes the bytes that are written to it."""

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
        """Return `True`."""
        return True

    def readable(self) -> bool:
        """Return `False`."""
        return False

    def seekable(self) -> bool:
        """Return `False`: the bytes are hashed in the order in which they are written."""
        return False

    def flush(self) -> None:
        """Do nothing: the wrapped file buffers."""

    def close(self) -> None:
        """Mark this object as closed. Only the code that opened the wrapped file closes that: closing may publish it."""
        self.closed = True

    def written(self) -> Written:
        """Return the size in bytes and the checksum of what has been written so far."""
        return Written(self._bytes, f"sha256:{self._hash.hexdigest()}")


@contextlib.contextmanager
def translated_errors(path: str) -> Iterator[None]:
    """Raise errors of a storage in the block, whatever package they come from, as an `OSError` that names the path.

    Args:
        path: The full path, for messages.

    Raises:
        PermissionError: Access was refused, or credentials are missing.
        FileNotFoundError: There is no such file.
        ConnectionError: A client of a storage raised a transient error.
        OSError: Anything else that a client of a storage raised.
    """
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
def publish_by_rename(fs: Any, path: str, shown: str) -> Iterator[HashingFile]:
    """Write a temporary file beside the final one, and move it to its name at the end of the block."""
    temporary = _temporary(path)
    with translated_errors(shown):
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(temporary, "wb") as file:
            yield (measured := HashingFile(file))
            _flush_to_disk(fs, file)
        measured.close()
        confirm()
        _move(fs, temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rm_file(temporary)
        raise


def _flush_to_disk(fs: Any, file: Any) -> None:
    file.flush()
    if on_disk(fs):
        os.fsync(file.fileno())


def _move(fs: Any, old: str, new: str) -> None:
    from fsspec.spec import AbstractFileSystem

    if on_disk(fs):
        os.replace(old, new)  # noqa: PTH105
    elif protocol(fs) in hdfs.SCHEMES:
        fs.mv(old, new, overwrite=True)  # in one step, as on a disk
    elif type(fs).mv is AbstractFileSystem.mv:  # which takes a name with * or ? for a glob
        fs.cp_file(old, new)
        fs.rm_file(old)
    else:
        fs.mv(old, new)


@contextlib.contextmanager
def publish_object(fs: Any, path: str, shown: str) -> Iterator[HashingFile]:
    """Upload a file, in one request if it is small. Only closing completes an upload, so it is closed only at a good end of the block."""
    with translated_errors(shown):
        file = fs.open(path, "wb")
    try:
        yield HashingFile(file)
        confirm()
        with translated_errors(shown):
            file.close()
    except BaseException:
        _discard(file)
        raise


def _discard(file: Any) -> None:
    """Abort an upload. Marking it as closed is vital: else fsspec's `__del__` closes it, which publishes what was written so far."""
    with contextlib.suppress(Exception):  # the error that led here is the one to report
        file.discard()
    file.closed = True


# ---------------------------------------------------------------- creating, if absent


def create_by_link(_: Any, path: str, data: bytes) -> bool:
    """Create a file on a local disk, whole and only if none is there; return whether it was created."""
    target, temporary = Path(path), Path(_temporary(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return _link_or_create(target, temporary, data)
    finally:
        temporary.unlink(missing_ok=True)


def _link_or_create(target: Path, temporary: Path, data: bytes) -> bool:
    try:
        target.hardlink_to(temporary)  # unlike a rename, a link never replaces a file
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return _create_without_link(target, data)
    return True


def _create_without_link(target: Path, data: bytes) -> bool:
    """Create a file on a disk without hard links. Only one process can create it, but others may see it half written."""
    try:
        with target.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def create_by_rename(fs: Any, path: str, data: bytes) -> bool:
    """Create a file on HDFS, whole and only if none is there; return whether it was created.

    Creating the file itself would be exclusive, too, but others would see it empty until it is complete.
    """
    temporary = _temporary(path)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(temporary, "wb") as file:
            file.write(data)
        fs.mv(temporary, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            fs.rm_file(temporary)
    return True


def create_object(fs: Any, path: str, data: bytes) -> bool:
    """Create an object only if none is there, by a conditional PUT; return whether it was created.

    The block size is larger than the data, so that fsspec sends one PUT: not every S3 checks the condition of a multipart upload.
    """
    try:
        file = fs.open(path, "xb", block_size=max(CREATE_BYTES, len(data) + 1))
    except FileExistsError:
        return False
    except (ValueError, NotImplementedError):
        return create_after_check(fs, path, data)
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
    """Return whether the store refused because the name is taken. s3fs recognises only AWS's own wording, not other servers'."""
    answer = getattr(error.__cause__, "response", None) or {}
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in {"PreconditionFailed", "412"}


def create_after_check(fs: Any, path: str, data: bytes) -> bool:
    """Create a file after a check that none is there; return whether it was created.

    This is for storages that cannot create exclusively. It is atomic only among the threads of this process.
    """
    with _CREATING:
        if fs.exists(path):
            return False
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with publish_by_rename(fs, path, path) as file:
            file.write(data)
        return True
