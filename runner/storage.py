"""Files on any fsspec storage: opened, listed, and published in one atomic step.

What is published appears whole or not at all. On a local disk that is a sibling temporary file, fsync and a rename; on an
object store it is the commit of an upload, discarded on any error; elsewhere (HDFS, SFTP) a temporary file and a move.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from runner.errors import ConfigError
from runner.types import Written

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory"})
EXTRAS = {"s3": "'ray-batch-runner[s3]'", "s3a": "'ray-batch-runner[s3]'", "gs": "gcsfs", "gcs": "gcsfs", "hdfs": "hdfs-native",
          "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}  # fmt: skip


def is_local(uri: str) -> bool:
    """Whether the path lies on this machine's disk."""
    return "://" not in uri or uri.startswith(("file://", "local://"))


def absolute(uri: str) -> str:
    """The path as every process must spell it: absolute on a local disk, unchanged elsewhere."""
    if not is_local(uri):
        return uri
    return os.path.abspath(os.path.expanduser(uri.removeprefix("file://").removeprefix("local://")))  # noqa: PTH100, PTH111


def locate(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The file system of a URI, and the path within it.

    Listings are never cached, since other processes write; `s3://anonymous@bucket/key` means `anon: true`.

    Raises:
        ConfigError: The protocol is unknown, or its package is not installed.
    """
    import fsspec

    given = {"use_listings_cache": False, **(options or {})}
    scheme, mark, rest = uri.partition("://")
    if mark and rest.startswith("anonymous@"):
        uri, given = f"{scheme}://{rest.removeprefix('anonymous@')}", {**given, "anon": True}
    try:
        fs, path = fsspec.core.url_to_fs(uri, **given)
    except ImportError as missing:
        install = EXTRAS.get(scheme, "the package named there")
        raise ConfigError(
            f"{uri}: {scheme}:// needs a package that is not installed ({missing}): pip install {install}"
        ) from missing
    except ValueError as unknown:
        raise ConfigError(f"{uri}: {unknown}") from unknown
    return fs, str(path)


def spell(fs: Any, path: str, like: str) -> str:
    """A path of `fs` as a URI in the style of `like`, so that `locate` finds it again."""
    scheme, mark, rest = like.partition("://")
    if not mark or is_local(like):
        return path
    user = "anonymous@" if rest.startswith("anonymous@") else ""
    full = str(fs.unstrip_protocol(path)).partition("://")[2]
    return f"{scheme}://{user}{full}"


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
    return sorted(fs.find(path)) if fs.isdir(path) else [path]


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


@dataclass(frozen=True)
class Store:
    """A folder on some storage.

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
        """Every file at any depth: path below the root to size in bytes. One fresh listing."""
        fs, root = _open(self)
        try:
            found = fs.find(f"{root}/{below}".rstrip("/"), detail=True, withdirs=False)
        except FileNotFoundError:
            return {}
        return {path.removeprefix(root).lstrip("/"): info["size"] or 0 for path, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """The content, `None` if there is no such file."""
        fs, root = _open(self)
        try:
            return bytes(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Delete a file; none is fine."""
        fs, root = _open(self)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(f"{root}/{name}")

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[Measured]:
        """A file to write that appears under its name, replacing what was there, only when the block ends well."""
        fs, root = _open(self)
        how = _publish_object if _protocol(fs) in OBJECT_STORES else _publish_by_rename
        with how(fs, f"{root}/{name}") as file:
            yield file

    def replace(self, name: str, data: bytes) -> None:
        """Publish these bytes."""
        with self.publish(name) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Publish these bytes unless the name is taken; whether they were. Atomic where the store can be."""
        fs, root = _open(self)
        try:
            if _protocol(fs) in {"file", "local"}:
                _create_by_link(Path(root, name), data)
            else:
                _create_exclusively(fs, f"{root}/{name}", data)
        except FileExistsError:
            return False
        return True


@lru_cache(maxsize=16)
def _opened(root: str, options: str, pid: int) -> tuple[Any, str]:  # noqa: ARG001 (async file systems do not survive a fork)
    import json

    fs, path = locate(root, json.loads(options))
    return fs, path.rstrip("/")


def _open(store: Store) -> tuple[Any, str]:
    import json

    return _opened(store.root, json.dumps(dict(store.options), sort_keys=True, default=str), os.getpid())


def _protocol(fs: Any) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def _temporary(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"


@contextlib.contextmanager
def _publish_by_rename(fs: Any, path: str) -> Iterator[Measured]:
    temporary = _temporary(path)
    fs.makedirs(path.rpartition("/")[0], exist_ok=True)
    try:
        with fs.open(temporary, "wb") as file:
            measured = Measured(file)
            yield measured
            file.flush()
            if local := _protocol(fs) in {"file", "local"}:
                os.fsync(file.fileno())
        if local:
            os.replace(temporary, path)  # noqa: PTH105
        else:
            fs.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            fs.rm_file(temporary)
        raise


@contextlib.contextmanager
def _publish_object(fs: Any, path: str) -> Iterator[Measured]:
    file = fs.open(path, "wb", autocommit=False)
    try:
        yield Measured(file)
        file.close()
        file.commit()
    except BaseException:
        _discard(file)
        raise


def _discard(file: Any) -> None:
    with contextlib.suppress(Exception):  # the first error is the one to tell
        file.discard()
    file.closed = True  # or the garbage collector would flush, and thereby publish, what was written


def _create_by_link(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(_temporary(str(path)))
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(temporary)  # unlike a rename, a link never replaces
    finally:
        temporary.unlink(missing_ok=True)


def _create_exclusively(fs: Any, path: str, data: bytes) -> None:
    try:
        file = fs.open(path, "xb", autocommit=False)
    except (ValueError, NotImplementedError):  # a store that cannot: the best it has
        if fs.exists(path):
            raise FileExistsError(path) from None
        fs.pipe_file(path, data)
        return
    try:
        file.write(data)
        file.close()
        file.commit()
    except BaseException:
        _discard(file)
        raise


# ---------------------------------------------------------------- which errors a later try may not meet

TRANSIENT_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT}
    | {errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.ENETRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
TRANSIENT_CODES = frozenset(
    {"InternalError", "RequestTimeout", "RequestTimeTooSkewed", "ServiceUnavailable", "SlowDown", "Throttling"}
)
NETWORK_PACKAGES = frozenset({"aiohttp", "urllib3", "requests", "httpx"})


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later: throttling, 5xx, timeouts, broken connections."""
    seen: BaseException | None = error
    while seen is not None:
        if _is_transient(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, PermissionError | FileNotFoundError | FileExistsError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in TRANSIENT_ERRNO:
        return True
    return _is_transient_answer(error)


def _is_transient_answer(error: BaseException) -> bool:
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return response.get("Error", {}).get("Code") in TRANSIENT_CODES or _is_transient_status(status)
    if _is_transient_status(getattr(error, "status", None) or getattr(error, "code", None)):
        return True
    package = type(error).__module__.partition(".")[0]
    return package in NETWORK_PACKAGES or (package == "botocore" and _is_connection_trouble(error))


def _is_transient_status(status: object) -> bool:
    return isinstance(status, int) and (status == 429 or 500 <= status < 600)


def _is_connection_trouble(error: BaseException) -> bool:
    return isinstance(error, importlib.import_module("botocore.exceptions").HTTPClientError)
