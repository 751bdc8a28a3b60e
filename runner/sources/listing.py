"""Lists the input files that paths, globs and folders name, each with its size and version."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from sys import intern
from typing import Any

from runner.errors import ConfigError, Incomplete, RunnerError
from runner.storage.globs import MAGIC, count_plain_segments, expand_glob
from runner.storage.locations import absolute, is_local, locate, on_disk, uri_of_path
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.storage.walking import Entries, info, stream_files
from runner.types import Input

THREADS = 16
# Keys of fsspec's descriptions that change when a file does, the most reliable first: an etag, a hash, then times.
VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modified", "created",
                "modification_time")  # fmt: skip

LINK = "is a link to nothing: mend or remove it"
SIZELESS = "has a size that its server does not tell, so it may look empty: fetch it first"


def list_files(paths: Sequence[str], options: Mapping[str, Any]) -> list[Input]:
    """List every file that the entries of `source.path` name. A file that several entries name is listed once.

    Folders and files below an entry's root whose names begin with `_` or `.` are skipped.

    Args:
        paths: Paths, URIs, globs and folders.
        options: fsspec's storage options.

    Returns:
        The files, entry by entry in the order given, those of each entry sorted by the bytes of their names.

    Raises:
        ConfigError: An entry that cannot be listed.
        Incomplete: An entry that a transient error kept from being listed.
    """
    return without_duplicates(list_entries(paths, options))


def list_entries(paths: Sequence[str], options: Mapping[str, Any]) -> list[list[Input]]:
    """List the files of each entry separately: a file that several entries name is in each list. See `list_files`."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda entry: _list_entry(entry, options), paths))


def without_duplicates(entries: Sequence[list[Input]]) -> list[Input]:
    """Return the files of all entries in order, each file once."""
    return entries[0] if len(entries) == 1 else _first_of_each(chain.from_iterable(entries))


def _first_of_each(files: Iterable[Input]) -> list[Input]:
    found: dict[str, Input] = {}
    for file in files:
        found.setdefault(file.name.replace("://anonymous@", "://", 1), file)
    return list(found.values())


def _list_entry(entry: str, options: Mapping[str, Any]) -> list[Input]:
    try:
        return retrying(lambda: list(_inputs_of(absolute(entry), options)), within=LOOKING_SECONDS)
    except RunnerError:
        raise
    except Exception as error:
        message = f"source.path={entry}: cannot be listed: {type(error).__name__}: {error}"
        if is_transient(error):
            raise Incomplete(message) from error
        hint = "" if is_local(entry) else " (source.storage_options hold credentials)"
        raise ConfigError(f"{message}{hint}") from error


def _inputs_of(entry: str, options: Mapping[str, Any]) -> Iterator[Input]:
    """Yield the files of an entry. Only name, size and version are kept of each description, because there may be millions of files."""
    fs, path = locate(entry, options)
    root, found = _root_and_files(fs, path.rstrip("/") or "/")
    listed = sorted(((name, what["size"], _version(what)) for name, what in found), reverse=True)
    while listed:  # popped from the end, so that the list shrinks as the inputs grow
        name, size, version = listed.pop()
        below = name.removeprefix(root).lstrip("/")
        if not _is_hidden(below):
            if size is None:
                raise ConfigError(f"source.path={entry}: {name} {LINK if on_disk(fs) else SIZELESS}")
            yield Input(_checked_uri(fs, name, entry), size, version, intern(posixpath.dirname(below)))


def _checked_uri(fs: Any, name: str, entry: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"source.path={entry}: the name of {name!r} is not UTF-8; rename the file") from None
    return uri_of_path(fs, name, entry)


def _root_and_files(fs: Any, path: str) -> tuple[str, Entries]:
    """Return the root of an entry and the files below it; only names below the root can be hidden or be partitions."""
    there = info(fs, path)
    if there is None and MAGIC & set(path):
        return _files_of_glob(fs, path)
    if there is None:
        return path, iter(())
    if there["type"] == "file":
        return path, iter([(path, there)])
    if there["type"] != "directory":
        raise ConfigError(f"source.path={path}: is neither a file nor a folder")
    return path, stream_files(fs, path)


def _files_of_glob(fs: Any, pattern: str) -> tuple[str, Entries]:
    found = (each for path, what in expand_glob(fs, pattern) for each in _files_of(fs, path, what))
    return "/".join(pattern.split("/")[: count_plain_segments(pattern)]), found


def _files_of(fs: Any, path: str, what: dict[str, Any]) -> Entries:
    """Yield a file itself, or all files below a folder."""
    if what["type"] in {"file", "link"}:
        return iter([(path, what)])
    return stream_files(fs, path) if what["type"] == "directory" else iter(())


def _is_hidden(below: str) -> bool:
    return any(segment.startswith(("_", ".")) for segment in below.split("/"))


def _version(found: Mapping[str, Any]) -> str:
    known = (found[key] for key in VERSION_KEYS if found.get(key) not in (None, ""))
    return str(next(known, "")).strip('"')


def is_parent_missing(entry: str, options: Mapping[str, Any]) -> bool:
    """Return whether even the folder above an entry does not exist; `False` if that folder may not be listed.

    On an object store a folder exists if an object lies below it.
    """
    fs, path = locate(absolute(entry), options)
    root = "/".join(path.split("/")[: count_plain_segments(path)]) if MAGIC & set(path) else path
    above = posixpath.dirname(root.rstrip("/"))
    try:
        return bool(above) and info(fs, above) is None
    except Exception:
        return False


def nearest_existing(path: str, options: Mapping[str, Any]) -> str:
    """Return the deepest existing folder on the way to a local path, to show where the path goes wrong; `""` for URIs."""
    if not is_local(path):
        return ""
    fs, here = locate(absolute(path), options)
    while here != "/" and not fs.exists(here):
        here = posixpath.dirname(here)
    return here
