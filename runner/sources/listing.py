"""From paths, globs and folders to the list of input files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from sys import intern
from typing import Any

from runner.errors import ConfigError, Incomplete, RunnerError
from runner.storage.locations import (
    MAGIC,
    Found,
    absolute,
    info,
    is_local,
    locate,
    match,
    on_disk,
    plain_segments,
    spell,
    stream_files,
)
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.types import Input

PARALLEL = 16
VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created")

LINK = "is a link to nothing: mend or remove it"
SIZELESS = "has a size that its server does not tell, so it may look empty: fetch it first"


def list_files(paths: Sequence[str], options: Mapping[str, Any]) -> list[Input]:
    """Every file that the entries name: entries in the order given, each sorted by bytes, a file named twice once.

    Segments below an entry's root that begin with `_` or `.` are skipped.

    Raises:
        ConfigError: An entry that cannot be listed.
        Incomplete: One that cannot be listed now.
    """
    return once(list_entries(paths, options))


def list_entries(paths: Sequence[str], options: Mapping[str, Any]) -> list[list[Input]]:
    """`list_files`, entry by entry: a file that several name is in each."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(lambda entry: _listed(entry, options), paths))


def once(entries: Sequence[list[Input]]) -> list[Input]:
    """The files of all entries in order, each once."""
    return entries[0] if len(entries) == 1 else _once(chain.from_iterable(entries))


def _once(files: Iterable[Input]) -> list[Input]:
    found: dict[str, Input] = {}
    for file in files:
        found.setdefault(file.name.replace("://anonymous@", "://", 1), file)
    return list(found.values())


def _listed(entry: str, options: Mapping[str, Any]) -> list[Input]:
    try:
        return retrying(lambda: list(_expand(absolute(entry), options)), within=LOOKING_SECONDS)
    except RunnerError:
        raise
    except Exception as error:
        told = f"source.path={entry}: cannot be listed: {type(error).__name__}: {error}"
        if is_transient(error):
            raise Incomplete(told) from error
        raise ConfigError(told if is_local(entry) else f"{told} (source.storage_options hold credentials)") from error


def _expand(entry: str, options: Mapping[str, Any]) -> Iterator[Input]:
    """Of what a storage tells about each file, only name, size and version are kept: there may be millions."""
    fs, path = locate(entry, options)
    root, found = _find(fs, path.rstrip("/") or "/")
    told = sorted(((name, what["size"], _version(what)) for name, what in found), reverse=True)
    while told:
        name, size, version = told.pop()
        below = name.removeprefix(root).lstrip("/")
        if not _hidden(below):
            if size is None:
                raise ConfigError(f"source.path={entry}: {name} {LINK if on_disk(fs) else SIZELESS}")
            yield Input(_spelled(fs, name, entry), size, version, intern(posixpath.dirname(below)))


def _spelled(fs: Any, name: str, entry: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"source.path={entry}: the name of {name!r} is not UTF-8; rename the file") from None
    return spell(fs, name, entry)


def _find(fs: Any, path: str) -> tuple[str, Found]:
    """The root that hidden names and partitions are counted from, and the files below it, each with its info."""
    there = info(fs, path)
    if there is None and MAGIC & set(path):
        return _matching(fs, path)
    if there is None:
        return path, iter(())
    if there["type"] == "file":
        return path, iter([(path, there)])
    if there["type"] != "directory":
        raise ConfigError(f"source.path={path}: is neither a file nor a folder")
    return path, stream_files(fs, path)


def _matching(fs: Any, pattern: str) -> tuple[str, Found]:
    found = (each for path, what in match(fs, pattern) for each in _files_of(fs, path, what))
    return "/".join(pattern.split("/")[: plain_segments(pattern)]), found


def _files_of(fs: Any, path: str, what: dict[str, Any]) -> Found:
    """A file itself; of a folder, all files below it."""
    if what["type"] in {"file", "link"}:
        return iter([(path, what)])
    return stream_files(fs, path) if what["type"] == "directory" else iter(())


def _hidden(below: str) -> bool:
    return any(segment.startswith(("_", ".")) for segment in below.split("/"))


def _version(found: Mapping[str, Any]) -> str:
    known = (found[key] for key in VERSION_KEYS if found.get(key) not in (None, ""))
    return str(next(known, "")).strip('"')


def is_nowhere(entry: str, options: Mapping[str, Any]) -> bool:
    """Whether even the folder above is not there, as far as it may be looked at: on an object store, whether nothing lies below it."""
    fs, path = locate(absolute(entry), options)
    root = "/".join(path.split("/")[: plain_segments(path)]) if MAGIC & set(path) else path
    above = posixpath.dirname(root.rstrip("/"))
    try:
        return bool(above) and info(fs, above) is None
    except Exception:
        return False


def nearest_existing(path: str, options: Mapping[str, Any]) -> str:
    """The deepest folder above a local path that exists, to say where a path goes wrong; `""` elsewhere."""
    if not is_local(path):
        return ""
    fs, here = locate(absolute(path), options)
    while here != "/" and not fs.exists(here):
        here = posixpath.dirname(here)
    return here
