"""Finds the files and folders that a glob names, on any fsspec file system."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from runner.storage.walking import Entries, children, info, stream_files

MAGIC = frozenset("*?[")  # a path with one of these characters is a glob


def expand_glob(fs: Any, pattern: str) -> Entries:
    """Yield the files and folders that a glob names: `*`, `?` and `[...]` match within a segment, `**` any number of segments."""
    segments = pattern.split("/")
    plain = "/".join(segments[: count_plain_segments(pattern)])
    return _expand(fs, plain, segments[count_plain_segments(pattern) :])


def count_plain_segments(pattern: str) -> int:
    """Return how many segments stand before the first one with a wildcard."""
    return next(i for i, segment in enumerate(pattern.split("/")) if MAGIC & set(segment))


def _expand(fs: Any, folder: str, segments: list[str]) -> Entries:
    head, *rest = segments
    if head == "**":
        yield from _expand_deep(fs, folder, segments)
        return
    for path, what in _candidates(fs, folder, head):
        if not rest:
            yield path, what
        elif what["type"] == "directory":
            yield from _expand(fs, path, rest)


def _candidates(fs: Any, folder: str, segment: str) -> Entries:
    if MAGIC & set(segment):
        listed = children(fs, folder or "/")
        return ((path, what) for path, what in listed if fnmatchcase(path.rpartition("/")[2], segment))
    path = f"{folder}/{segment}"
    what = info(fs, path)
    return iter(() if what is None else [(path, what)])


def _expand_deep(fs: Any, folder: str, segments: list[str]) -> Entries:
    for path, what in stream_files(fs, folder or "/"):
        below = path.removeprefix(folder).strip("/").split("/")
        if any(_segments_match(below[:depth], segments) for depth in range(1, len(below) + 1)):
            yield path, what


def _segments_match(names: list[str], segments: list[str]) -> bool:
    """Return whether the segments of a pattern match all of the names, from the first to the last."""
    if not segments:
        return not names
    if segments[0] == "**":
        return any(_segments_match(names[skipped:], segments[1:]) for skipped in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], segments[0]) and _segments_match(names[1:], segments[1:])
