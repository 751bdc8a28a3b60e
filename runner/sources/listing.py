"""From paths, globs and folders to the list of input files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runner.errors import ConfigError, Incomplete, RunnerError
from runner.locations import (
    MAGIC,
    Infos,
    absolute,
    find_files,
    info,
    is_local,
    locate,
    match,
    plain_segments,
    spell,
)
from runner.transience import is_transient
from runner.types import File

PARALLEL = 16
VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")


def list_files(paths: Sequence[str], options: Mapping[str, Any]) -> list[File]:
    """Every file that the entries name: entries in the order given, each sorted by bytes, a file named twice once.

    Segments below an entry's root that begin with `_` or `.` are skipped.

    Raises:
        ConfigError: An entry that cannot be listed.
        Incomplete: One that cannot be listed now.
    """
    found: dict[str, File] = {}
    with ThreadPoolExecutor(PARALLEL) as pool:
        for files in pool.map(lambda entry: _listed(entry, options), paths):
            for file in files:
                found.setdefault(file.path.replace("://anonymous@", "://", 1), file)
    return list(found.values())


def _listed(entry: str, options: Mapping[str, Any]) -> list[File]:
    try:
        return list(_expand(absolute(entry), options))
    except RunnerError:
        raise
    except Exception as error:
        told = f"source.path={entry}: cannot be listed: {type(error).__name__}: {error}"
        if is_transient(error):
            raise Incomplete(told) from error
        raise ConfigError(f"{told} (source.storage_options hold credentials)") from error


def _expand(entry: str, options: Mapping[str, Any]) -> Iterator[File]:
    fs, path = locate(entry, options)
    root, found = _find(fs, path.rstrip("/") or "/")
    for name in sorted(found):
        below = name.removeprefix(root).lstrip("/")
        if not _hidden(below):
            yield File(
                _spelled(fs, name, entry), found[name]["size"] or 0, _version(found[name]), posixpath.dirname(below)
            )


def _spelled(fs: Any, name: str, entry: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"source.path={entry}: the name of {name!r} is not UTF-8; rename the file") from None
    return spell(fs, name, entry)


def _find(fs: Any, path: str) -> tuple[str, Infos]:
    """The root that hidden names and partitions are counted from, and the infos of the files below it by path."""
    there = info(fs, path)
    if there is None and MAGIC & set(path):
        return _matching(fs, path)
    if there is None:
        return path, {}
    if there["type"] == "file":
        return path, {path: there}
    if there["type"] != "directory":
        raise ConfigError(f"source.path={path}: is neither a file nor a folder")
    return path, find_files(fs, path)


def _matching(fs: Any, pattern: str) -> tuple[str, Infos]:
    found: Infos = {}
    for path, what in match(fs, pattern).items():
        found |= {path: what} if what["type"] == "file" else find_files(fs, path) if what["type"] == "directory" else {}
    return "/".join(pattern.split("/")[: plain_segments(pattern)]), found


def _hidden(below: str) -> bool:
    return any(segment.startswith(("_", ".")) for segment in below.split("/"))


def _version(found: Mapping[str, Any]) -> str:
    known = (found[key] for key in VERSION_KEYS if found.get(key) not in (None, ""))
    return str(next(known, "")).strip('"')


def nearest_existing(path: str, options: Mapping[str, Any]) -> str:
    """The deepest folder above a local path that exists, to say where a path goes wrong; `""` elsewhere."""
    if not is_local(path):
        return ""
    fs, here = locate(absolute(path), options)
    while here != "/" and not fs.exists(here):
        here = posixpath.dirname(here)
    return here
