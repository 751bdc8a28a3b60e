"""Lists what is stored: one path, the entries of a folder, or every file below it. A listing is complete, or it raises."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from typing import Any

from runner.storage.locations import on_disk

Infos = dict[str, dict[str, Any]]
"""Path to fsspec's description of what is there: `type`, `size` and whatever the storage adds."""
Entries = Iterator[tuple[str, dict[str, Any]]]
"""The same pairs of path and description, one after the other."""


def info(fs: Any, path: str) -> dict[str, Any] | None:
    """Return fsspec's description of a path, links followed; `None` if nothing is there."""
    try:
        return _stat(path) if on_disk(fs) else dict(fs.info(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def find_files(fs: Any, folder: str) -> Infos:
    """Return every file below a folder at any depth, links followed. A folder that cannot be listed raises an error."""
    return {path: what for path, what in stream_files(fs, folder) if what["type"] == "file"}


def stream_files(fs: Any, folder: str) -> Entries:
    """Yield every file below a folder as soon as it is found.

    On a local disk one file is held in memory at a time, and of S3 one page of a listing; other file systems may hold the whole
    listing. On a local disk, a link whose target does not exist is yielded too, with type `link` and size `None`.
    """
    if on_disk(fs):
        return _walk_disk(folder)
    if _is_s3_by_obstore(fs):
        return ((what["name"], what) for what in fs.files_below(folder.rstrip("/")))
    if not _lists_trees(fs):
        return _list_recursively(fs, folder)
    found = _list_s3_pages(fs, folder) if _is_s3(fs) else fs.find(folder, detail=True).items()
    return ((path, what) for path, what in found if what["type"] == "file" and not path.endswith("/"))


def _is_s3_by_obstore(fs: Any) -> bool:
    return hasattr(fs, "files_below")


def _is_s3(fs: Any) -> bool:
    return hasattr(fs, "call_s3") and not fs.version_aware


def _list_s3_pages(fs: Any, folder: str, delimiter: str = "") -> Entries:
    """Yield a listing of S3 page by page: s3fs itself collects a million objects in gigabytes before it returns the first."""
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


def _lists_trees(fs: Any) -> bool:
    """Return whether the file system has a `find` of its own. The `find` that it would inherit omits folders that it cannot list."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    if isinstance(fs, AsyncFileSystem):
        return type(fs)._find is not AsyncFileSystem._find
    return getattr(type(fs), "find", None) is not AbstractFileSystem.find


def _list_recursively(fs: Any, folder: str) -> Entries:
    for path, what in children(fs, folder):
        if what["type"] == "directory":
            yield from _list_recursively(fs, path)
        elif what["type"] == "file":
            yield path, what


def _walk_disk(root: str) -> Entries:
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_raise_unless_gone):
        folders[:] = [name for name in folders if not _is_link_to_ancestor(folder, name)]
        for path in (os.path.join(folder, name) for name in names):  # noqa: PTH118
            what = _stat_or_dead_link(path)
            if what is not None and what["type"] in {"file", "link"}:
                yield path, what


def _stat_or_dead_link(path: str) -> dict[str, Any] | None:
    """Describe a path that a listing named: links followed, a dead link as `link`, `None` if it has been deleted since."""
    try:
        return _stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"name": path, "type": "link", "size": None} if os.path.islink(path) else None  # noqa: PTH114


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _is_link_to_ancestor(folder: str, name: str) -> bool:
    """Return whether a folder is a link to a folder above it: following it would never end."""
    path = os.path.join(folder, name)  # noqa: PTH118
    return os.path.islink(path) and f"{os.path.realpath(folder)}/".startswith(f"{os.path.realpath(path)}/")  # noqa: PTH114


def _stat(path: str) -> dict[str, Any]:
    found = os.stat(path)  # noqa: PTH116
    kind = "file" if stat.S_ISREG(found.st_mode) else "directory" if stat.S_ISDIR(found.st_mode) else "other"
    return {"name": path, "type": kind, "size": found.st_size, "mtime": found.st_mtime}


def children(fs: Any, folder: str) -> Entries:
    """Yield the files and folders that lie directly in a folder."""
    if on_disk(fs):
        names = os.listdir(folder) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208
        listed = ((path, _stat_or_dead_link(path)) for path in (posixpath.join(folder, name) for name in names))
        return ((path, what) for path, what in listed if what is not None)
    paths = ((path.rstrip("/"), what) for path, what in _list_folder(fs, folder))
    return ((path, what) for path, what in paths if path != folder.rstrip("/"))


def _list_folder(fs: Any, folder: str) -> Entries:
    if _is_s3(fs) and folder.strip("/"):
        return _list_s3_pages(fs, folder, "/")
    try:
        return ((what["name"], what) for what in fs.ls(folder, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return iter(())
