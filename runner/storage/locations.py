"""Paths and URIs: which storage each one means, how every process spells it, and whether parts can be written there."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from runner.errors import ConfigError
from runner.storage import hdfs
from runner.storage.clients import S3_SCHEMES, stand_in

PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs",
          "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}  # fmt: skip
CONTAINER_SCHEMES = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss"}
)  # stores whose paths begin with the name of a bucket or container
# s3fs retries five times around botocore's own five tries, and we retry around both: with botocore's default, minutes would pass until
# a request that stalls is reported.
S3_RETRIES = {"mode": "standard", "total_max_attempts": 2}
LOCAL_SCHEME = re.compile(
    r"(?i:file|local):(?://(?i:localhost)(?=/)|//|(?=/))"
)  # file:///x, file:/x, file://localhost/x


def is_local(uri: str) -> bool:
    """Return whether a path lies on this machine's disk."""
    return "::" not in uri and ("://" not in uri or LOCAL_SCHEME.match(uri) is not None)


def absolute(uri: str) -> str:
    """Return the spelling that is valid in every process: local paths become absolute, URIs get their protocol in lower case."""
    if is_local(uri):
        return os.path.abspath(os.path.expanduser(LOCAL_SCHEME.sub("", uri, count=1)))  # noqa: PTH100, PTH111
    scheme, mark, rest = uri.partition("://")
    return uri if "::" in uri else f"{scheme.lower()}{mark}{rest}"


def unfit_for_parts(uri: str) -> str | None:
    """Return why parts cannot be written below a URI, or not be found again there, and what to give instead; `None` if they can."""
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
        return "names no bucket" if scheme.lower() in CONTAINER_SCHEMES or not rest.strip("/") else None
    if any(segment in {"", ".", ".."} for segment in segments[1:]):
        clean = posixpath.normpath("/".join(["", *segments[1:]]))
        return f"has a segment that is empty, '.' or '..'; write {scheme}://{segments[0]}/{clean.lstrip('/')}"
    return None


def inside(paths: Iterable[str], folder: str) -> list[str]:
    """Return those of the paths that lie below a folder. On a local disk, links are followed."""
    if is_local(folder):
        real = f"{os.path.realpath(folder).rstrip('/')}/"
        place = lru_cache(maxsize=None)(os.path.realpath)
        return [path for path in paths if is_local(path) and _real_path(path, place).startswith(real)]
    root = f"{_canonical(folder)}/"
    return [path for path in paths if _canonical(path).startswith(root)]


def _real_path(path: str, place: Callable[[str], str]) -> str:
    """Return a path with its links followed. `place` remembers folders, so that each is resolved once, however many files it holds."""
    folder, _, name = path.rpartition("/")
    return os.path.realpath(path) if os.path.islink(path) else f"{place(folder or '/').rstrip('/')}/{name}"  # noqa: PTH114


def _canonical(uri: str) -> str:
    """Return one spelling for all URIs that mean the same place, such as `s3a://b/` and `s3://b`."""
    scheme, _, rest = uri.partition("://")
    names = {"s3a": "s3", "gcs": "gs", "abfss": "abfs"}
    lower = scheme.lower()
    return f"{names.get(lower, lower)}://{rest.removeprefix('anonymous@').rstrip('/')}"


def locate(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the file system of a URI, and the path within it: fsspec's, or one with its interface that is faster (see `clients`).

    Listings are never cached, because other processes write. `s3://anonymous@bucket/key` means `anon: true`.

    Args:
        uri: Local path or URI.
        options: fsspec's storage options.

    Raises:
        ConfigError: The protocol is unknown, or its package is not installed.
    """
    uri, given = _without_user(uri, options or {})
    faster = stand_in(uri, given, lambda: _by_fsspec(uri, given)[0])
    return _by_fsspec(uri, given) if isinstance(faster, str) else (faster, faster._strip_protocol(uri))


def why_not_faster(uri: str, options: Mapping[str, Any]) -> str:
    """Return why fsspec's own client serves a URI although there is a faster one; empty if that serves it, or if there is none."""
    uri, given = _without_user(uri, options)
    faster = stand_in(uri, given, lambda: None)
    return faster if isinstance(faster, str) else ""


def _without_user(uri: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    scheme, mark, rest = uri.partition("://")
    if mark and rest.startswith("anonymous@"):
        return f"{scheme}://{rest.removeprefix('anonymous@')}", {**options, "anon": True}
    return uri, dict(options)


def _by_fsspec(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's own file system. On S3, botocore tries each request twice unless `config_kwargs.retries` says otherwise."""
    import fsspec

    given = {**options, "use_listings_cache": False}
    scheme = uri.partition("://")[0]
    if scheme in S3_SCHEMES:
        given["config_kwargs"] = {"retries": S3_RETRIES, **(given.get("config_kwargs") or {})}
    try:
        if hdfs.is_hdfs(uri):
            return hdfs.file_system(uri, options or {})
        fs, path = fsspec.core.url_to_fs(uri, **given)
    except ImportError as missing:
        raise ConfigError(_missing_package(uri, scheme, missing)) from missing
    except ValueError as unknown:
        raise ConfigError(f"{uri}: {unknown}") from unknown
    return fs, str(path)


def protocol_problem(uri: str) -> str | None:
    """Return why `locate` would refuse the protocol of a URI, without connecting; `None` if the protocol can be used."""
    import fsspec

    for scheme in (part.partition("://")[0] for part in uri.split("::") if "://" in part):
        if scheme in S3_SCHEMES and find_spec("s3fs"):
            continue  # to import it takes long, and another client may serve S3
        try:
            if hdfs.is_hdfs(f"{scheme}://") and find_spec("hdfs_native") is None:
                raise ImportError("hdfs-native")
            fsspec.get_filesystem_class(scheme)
        except ImportError as missing:
            return _missing_package(uri, scheme, missing)
        except ValueError as unknown:
            return f"{uri}: {unknown}"
    return None


def _missing_package(uri: str, scheme: str, missing: ImportError) -> str:
    extra = "s3" if scheme in S3_SCHEMES else "hdfs" if scheme in hdfs.SCHEMES else None
    how = install(extra) if extra else f"pip install {PACKAGES.get(scheme, 'the package named there')}"
    return f"{uri}: {scheme}:// needs a package that is not installed ({missing}): {how}"


def install(extra: str) -> str:
    """Return the command that installs an extra of this project from a checkout of its repository."""
    return f"pip install -c constraints.txt -e '.[{extra}]' (in a checkout of this project)"


def uri_of_path(fs: Any, path: str, like: str) -> str:
    """Return a path within `fs` as a URI that `locate` can open again, with the user and host that `like` has.

    Args:
        fs: The file system.
        path: A path within it, as its listing gave it.
        like: A URI of the same file system, whose style is followed.
    """
    if is_local(like):
        return path
    first, chain, rest = like.partition("::")
    if chain and "://" not in first:  # simplecache::s3://...
        return f"{first}::{uri_of_path(fs, path, rest)}"
    return _uri_in_style_of(fs, path, first.rstrip("/")) + chain + rest


def _uri_in_style_of(fs: Any, path: str, like: str) -> str:
    inside = str(fs._strip_protocol(like.replace("://anonymous@", "://", 1)))
    if like.endswith(inside):
        return like.removesuffix(inside) + path
    scheme, _, rest = like.partition("://")
    container, account, host = rest.partition("/")[0].partition("@")
    if account and f"{path}/".startswith(f"{container}/"):  # abfs://container@account.dfs.core.windows.net/path
        return f"{scheme}://{container}@{host}{path.removeprefix(container)}"
    return str(fs.unstrip_protocol(path))


def protocol(fs: Any) -> str:
    """Return the first name of a file system's protocol, such as `s3`."""
    return fs.protocol if isinstance(fs.protocol, str) else str(fs.protocol[0])


def on_disk(fs: Any) -> bool:
    """Return whether a file system is the local disk."""
    return protocol(fs) in {"file", "local"}


def is_skipped(path: str, skip: Sequence[str]) -> bool:
    """Return whether one of the entries of `skip` (paths, file names or `fnmatch` patterns) names this file."""
    return any(path == each or fnmatchcase(path, each) or path.rpartition("/")[2] == each for each in skip)
