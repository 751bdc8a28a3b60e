"""From paths, globs and folders to the list of input files."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner.storage import absolute, is_local, locate, spell
from runner.types import File

MAGIC = frozenset("*?[")
VERSION_KEYS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


def list_files(paths: Sequence[str], options: Mapping[str, Any]) -> list[File]:
    """Every file that the entries name: entries in the order given, each sorted by bytes, a file named twice once.

    Segments below an entry's root that begin with `_` or `.` are skipped.
    """
    found: dict[str, File] = {}
    for entry in paths:
        for file in _expand(absolute(entry), options):
            found.setdefault(file.path, file)
    return list(found.values())


def _expand(entry: str, options: Mapping[str, Any]) -> Iterator[File]:
    fs, path = locate(entry, options)
    root, found = _find(fs, path.rstrip("/") or "/")
    for name in sorted(found):
        below = name.removeprefix(root).lstrip("/")
        if not _hidden(below) and found[name]["type"] == "file":
            yield File(
                spell(fs, name, entry),
                found[name]["size"] or 0,
                _version(found[name]),
                posixpath.dirname(below),
            )


def _find(fs: Any, path: str) -> tuple[str, dict[str, Any]]:
    """The root that hidden names and partitions are counted from, and the infos of what is below it by path."""
    info = _info(fs, path)
    if info is not None and info["type"] == "file":
        return posixpath.dirname(path), {path: info}
    if info is None and MAGIC & set(path):
        return _glob(fs, path)
    return path, fs.find(path, detail=True) if info is not None else {}


def _info(fs: Any, path: str) -> dict[str, Any] | None:
    try:
        return dict(fs.info(path))
    except FileNotFoundError:
        return None


def _glob(fs: Any, pattern: str) -> tuple[str, dict[str, Any]]:
    found: dict[str, Any] = {}
    for path, info in fs.glob(pattern, detail=True).items():
        found |= {path: info} if info["type"] == "file" else fs.find(path, detail=True)
    segments = pattern.split("/")
    plain = next(i for i, segment in enumerate(segments) if MAGIC & set(segment))
    return "/".join(segments[:plain]), found


def _hidden(below: str) -> bool:
    return any(segment.startswith(("_", ".")) for segment in below.split("/"))


def _version(info: Mapping[str, Any]) -> str:
    for key in VERSION_KEYS:
        if value := info.get(key):
            return str(value).strip('"')
    return ""


def nearest_existing(path: str, options: Mapping[str, Any]) -> str:
    """The deepest folder above a local path that exists, to say where a path goes wrong; `""` elsewhere."""
    if not is_local(path):
        return ""
    fs, here = locate(absolute(path), options)
    while here != "/" and not fs.exists(here):
        here = posixpath.dirname(here)
    return here
