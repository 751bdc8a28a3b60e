"""Where files are: paths and URIs of any fsspec storage, how each process spells them, and what lies below them."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from runner.errors import ConfigError

OURS = ("s3", "s3a")
EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "hdfs": "hdfs-native",
          "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}  # fmt: skip
BUCKETS = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"}
)  # stores whose paths begin with a container
MAGIC = frozenset("*?[")
# s3fs tries five times around botocore's own five, and we around both: a request that stalls would take many minutes to be told.
S3_RETRIES = {"mode": "standard", "total_max_attempts": 2}
Infos = dict[str, dict[str, Any]]
"""Path to fsspec's description of what is there: `type`, `size` and whatever the storage adds."""
Found = Iterator[tuple[str, dict[str, Any]]]
"""The same, one after the other."""


LOCAL = re.compile(r"(?i:file|local):(?://(?i:localhost)(?=/)|//|(?=/))")  # file:///x, file:/x, file://localhost/x


def is_local(uri: str) -> bool:
    """Whether the path lies on this machine's disk."""
    return "::" not in uri and ("://" not in uri or LOCAL.match(uri) is not None)


def absolute(uri: str) -> str:
    """The path as every process must spell it: absolute on a local disk; elsewhere as it is, its protocol in lower case."""
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(LOCAL.sub("", uri, count=1)))  # noqa: PTH100, PTH111
    scheme, mark, rest = uri.partition("://")
    return uri if "::" in uri else f"{scheme.lower()}{mark}{rest}"


def unfit_for_parts(uri: str) -> str | None:
    """Why parts cannot be written below a path, or not be found again there, with what to write instead; `None` if they can."""
    if is_local(uri):
        return None
    scheme, _, rest = uri.partition("://")
    if "::" in uri:
        return "is a chain of file systems, which can be read, but not written part by part; give the storage itself"
    if scheme.lower() == "memory":
        return "is memory, which is gone when the process ends; give a folder or a URI of a storage"
    if scheme.lower() in {"http", "https", "data", "github", "git", "zip", "tar"}:
        return f"{scheme}:// can be read, but not written part by part; give a folder or a URI of a storage"
    segments = rest.rstrip("/").split("/")
    if not segments[0]:
        return "names no bucket" if scheme.lower() in BUCKETS or not rest.strip("/") else None
    if any(segment in {"", ".", ".."} for segment in segments[1:]):
        clean = posixpath.normpath("/".join(["", *segments[1:]]))
        return f"has a segment that is empty, '.' or '..'; write {scheme}://{segments[0]}/{clean.lstrip('/')}"
    return None


def inside(paths: Iterable[str], folder: str) -> list[str]:
    """Those of the paths that lie below a folder; on a local disk links are followed."""
    if is_local(folder):
        real = f"{os.path.realpath(folder).rstrip('/')}/"
        place = lru_cache(maxsize=None)(os.path.realpath)
        return [path for path in paths if is_local(path) and _real(path, place).startswith(real)]
    root = f"{_plain(folder)}/"
    return [path for path in paths if _plain(path).startswith(root)]


def _real(path: str, place: Callable[[str], str]) -> str:
    """Where a path leads: each folder is looked up once, whatever number of files it holds."""
    folder, _, name = path.rpartition("/")
    return os.path.realpath(path) if os.path.islink(path) else f"{place(folder or '/').rstrip('/')}/{name}"  # noqa: PTH114


def _plain(uri: str) -> str:
    """One spelling for all that mean the same place."""
    scheme, _, rest = uri.partition("://")
    names = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
    lower = scheme.lower()
    return f"{names.get(lower, lower)}://{rest.removeprefix('anonymous@').rstrip('/')}"


def locate(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The file system of a URI, and the path within it.

    Listings are never cached, since other processes write; `s3://anonymous@bucket/key` means `anon: true`. On S3, botocore tries
    twice unless `config_kwargs.retries` says otherwise: s3fs and the job try again around it.

    Raises:
        ConfigError: The protocol is unknown, or its package is not installed.
    """
    import fsspec

    given = {**(options or {}), "use_listings_cache": False}
    scheme, mark, rest = uri.partition("://")
    if scheme in {"s3", "s3a"}:
        given["config_kwargs"] = {"retries": S3_RETRIES, **(given.get("config_kwargs") or {})}
    if mark and rest.startswith("anonymous@"):
        uri, given = f"{scheme}://{rest.removeprefix('anonymous@')}", {**given, "anon": True}
    try:
        fs, path = fsspec.core.url_to_fs(uri, **given)
    except ImportError as missing:
        raise ConfigError(_lacking(uri, scheme, missing)) from missing
    except ValueError as unknown:
        raise ConfigError(f"{uri}: {unknown}") from unknown
    return fs, str(path)


def unusable(uri: str) -> str | None:
    """What `locate` would say of a protocol, without a connection; `None` if it can be used."""
    import fsspec

    for scheme in (part.partition("://")[0] for part in uri.split("::") if "://" in part):
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError as missing:
            return _lacking(uri, scheme, missing)
        except ValueError as unknown:
            return f"{uri}: {unknown}"
    return None


def _lacking(uri: str, scheme: str, missing: ImportError) -> str:
    how = install("s3") if scheme in OURS else f"pip install {EXTRAS.get(scheme, 'the package named there')}"
    return f"{uri}: {scheme}:// needs a package that is not installed ({missing}): {how}"


def install(extra: str) -> str:
    """How to install an extra of this project, which comes from its repository."""
    return f"pip install -c constraints.txt -e '.[{extra}]' (in a checkout of this project)"


def spell(fs: Any, path: str, like: str) -> str:
    """A path of `fs` as a URI in the style of `like`, so that `locate` finds it again, user and host included."""
    if is_local(like):
        return path
    first, chain, rest = like.partition("::")
    if chain and "://" not in first:  # simplecache::s3://...
        return f"{first}::{spell(fs, path, rest)}"
    return _respelled(fs, path, first.rstrip("/")) + chain + rest


def _respelled(fs: Any, path: str, like: str) -> str:
    inside = str(fs._strip_protocol(like.replace("://anonymous@", "://", 1)))
    if like.endswith(inside):
        return like.removesuffix(inside) + path
    scheme, _, rest = like.partition("://")
    container, account, host = rest.partition("/")[0].partition("@")
    if account and f"{path}/".startswith(f"{container}/"):  # abfs://container@account.dfs.core.windows.net/path
        return f"{scheme}://{container}@{host}{path.removeprefix(container)}"
    return str(fs.unstrip_protocol(path))


def protocol(fs: Any) -> str:
    """The first name of the file system's protocol."""
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def on_disk(fs: Any) -> bool:
    """Whether this is the local disk."""
    return protocol(fs) in {"file", "local"}


# ---------------------------------------------------------------- what is there: whole, or an error


def info(fs: Any, path: str) -> dict[str, Any] | None:
    """What a path is, links followed; `None` if there is nothing."""
    try:
        return _stat(path) if on_disk(fs) else dict(fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def find_files(fs: Any, folder: str) -> Infos:
    """Every file below a folder at any depth, links followed. Never a part of them: what cannot be listed raises."""
    return {path: what for path, what in stream_files(fs, folder) if what["type"] == "file"}


def stream_files(fs: Any, folder: str) -> Found:
    """`find_files` as they are found: of a local disk one file, of S3 one page is held at a time, elsewhere perhaps all.

    On a local disk, links to nothing are among them, of type `link` and without a size.
    """
    if on_disk(fs):
        return _walk(folder)
    if not _finds_all(fs):
        return _descend(fs, folder)
    found = _pages(fs, folder) if _has_pages(fs) else fs.find(folder, detail=True).items()
    return ((path, what) for path, what in found if what["type"] == "file" and not path.endswith("/"))


def _has_pages(fs: Any) -> bool:
    return hasattr(fs, "call_s3") and not fs.version_aware


def _pages(fs: Any, folder: str, delimiter: str = "") -> Found:
    """S3's own pages: s3fs collects a million objects in gigabytes before it returns the first."""
    bucket, key, _ = fs.split_path(folder)
    prefix = f"{key.rstrip('/')}/" if key else ""
    request = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, **fs.req_kw}
    while True:
        page = fs.call_s3("list_objects_v2", **request)
        for each in page.get("CommonPrefixes", ()):
            yield f"{bucket}/{each['Prefix'].rstrip('/')}", {"type": "directory", "size": 0}
        for each in page.get("Contents", ()):
            yield f"{bucket}/{each['Key']}", {"type": "file", "size": each["Size"], "ETag": each["ETag"]}
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _finds_all(fs: Any) -> bool:
    """Whether the file system lists a tree by itself; fsspec's own way omits folders that it cannot list."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is not AsyncFileSystem._find
    return getattr(type(fs), "find", None) is not AbstractFileSystem.find


def _descend(fs: Any, folder: str) -> Found:
    for path, what in children(fs, folder):
        if what["type"] == "directory":
            yield from _descend(fs, path)
        elif what["type"] == "file":
            yield path, what


def _walk(root: str) -> Found:
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unless_gone):
        folders[:] = [name for name in folders if not _leads_back(folder, name)]
        for path in (os.path.join(folder, name) for name in names):  # noqa: PTH118
            what = _seen(path)
            if what is not None and what["type"] in {"file", "link"}:
                yield path, what


def _seen(path: str) -> dict[str, Any] | None:
    """What a name in a folder is, links followed; `None` if it is gone since."""
    try:
        return _stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"name": path, "type": "link", "size": None} if os.path.islink(path) else None  # noqa: PTH114


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _leads_back(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    path = os.path.join(folder, name)  # noqa: PTH118
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")  # noqa: PTH114


def _stat(path: str) -> dict[str, Any]:
    found = os.stat(path)  # noqa: PTH116
    kind = "file" if stat.S_ISREG(found.st_mode) else "directory" if stat.S_ISDIR(found.st_mode) else "other"
    return {"name": path, "type": kind, "size": found.st_size, "mtime": found.st_mtime}


def children(fs: Any, folder: str) -> Found:
    """What lies directly in a folder."""
    if on_disk(fs):
        names = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
        listed = ((path, _seen(path)) for path in (posixpath.join(folder, name) for name in names))
        return ((path, what) for path, what in listed if what is not None)
    paths = ((path.rstrip("/"), what) for path, what in _inside(fs, folder))
    return ((path, what) for path, what in paths if path != folder.rstrip("/"))


def _inside(fs: Any, folder: str) -> Found:
    if _has_pages(fs) and folder.strip("/"):
        return _pages(fs, folder, "/")
    try:
        return ((what["name"], what) for what in fs.ls(folder, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return iter(())


def match(fs: Any, pattern: str) -> Found:
    """What a glob names: files and folders. `*`, `?` and `[...]` match within a segment, `**` any number of them."""
    segments = pattern.split("/")
    plain = "/".join(segments[: plain_segments(pattern)])
    return _match(fs, plain, segments[plain_segments(pattern) :])


def plain_segments(pattern: str) -> int:
    """How many segments stand before the first with a wildcard."""
    return next(i for i, segment in enumerate(pattern.split("/")) if MAGIC & set(segment))


def _match(fs: Any, folder: str, segments: list[str]) -> Found:
    head, *rest = segments
    if head == "**":
        yield from _match_deep(fs, folder, segments)
        return
    for path, what in _candidates(fs, folder, head):
        if not rest:
            yield path, what
        elif what["type"] == "directory":
            yield from _match(fs, path, rest)


def _candidates(fs: Any, folder: str, segment: str) -> Found:
    if MAGIC & set(segment):
        listed = children(fs, folder or "/")
        return ((path, what) for path, what in listed if fnmatchcase(path.rpartition("/")[2], segment))
    path = f"{folder}/{segment}"
    what = info(fs, path)
    return iter(() if what is None else [(path, what)])


def _match_deep(fs: Any, folder: str, segments: list[str]) -> Found:
    for path, what in stream_files(fs, folder or "/"):
        below = path.removeprefix(folder).strip("/").split("/")
        if any(_matches(below[:depth], segments) for depth in range(1, len(below) + 1)):
            yield path, what


def _matches(names: list[str], segments: list[str]) -> bool:
    """Whether the names, all of them, are what the segments describe."""
    if not segments:
        return not names
    if segments[0] == "**":
        return any(_matches(names[skipped:], segments[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], segments[0]) and _matches(names[1:], segments[1:])


def is_skipped(path: str, skip: Sequence[str]) -> bool:
    """Whether one of the paths, file names or patterns (`fnmatch`) names this file."""
    return any(path == each or fnmatchcase(path, each) or path.rpartition("/")[2] == each for each in skip)
