"""Says which client serves a URI: obstore for S3, where it understands the options, the environment and the path; else fsspec's own."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from runner.storage.s3_options import VARIABLES, translated

if TYPE_CHECKING:
    from runner.storage.s3_objects import S3Objects

S3_SCHEMES = ("s3", "s3a")
_first_process: list[int] = []  # the process that used obstore first: its threads do not exist in a fork of it


def stand_in(uri: str, options: Mapping[str, Any], plain: Callable[[], Any]) -> S3Objects | str:
    """Return the file system that serves a URI faster than fsspec's own; or the reason why none does, empty if there is no faster one.

    Args:
        uri: A URI, without `anonymous@`.
        options: fsspec's storage options.
        plain: Makes fsspec's own file system.
    """
    if "::" in uri or uri.partition("://")[0] not in S3_SCHEMES:
        return ""
    if importlib.util.find_spec("obstore") is None:
        return "obstore is not installed"
    environment = tuple(os.environ.get(name, "") for name in VARIABLES)
    found = _shared(json.dumps(dict(options), sort_keys=True, default=str), environment, os.getpid())
    if isinstance(found, str):
        return found
    from runner.storage.s3_objects import nameable

    found.plain = plain
    return found if nameable(uri.partition("://")[2]) else "obstore cannot spell its name"


@lru_cache(maxsize=16)
def _shared(options: str, environment: tuple[str, ...], pid: int) -> S3Objects | str:
    try:
        how = translated(json.loads(options), dict(zip(VARIABLES, environment, strict=True)))
    except (AttributeError, TypeError, ValueError):  # fsspec's own client says which one
        return "storage_options hold a value of another type than obstore expects"
    if isinstance(how, str):
        return how
    if not _first_process:
        _first_process.append(pid)
    if _first_process[0] != pid:
        return "obstore does not work in a forked process"
    from runner.storage.s3_objects import S3Objects

    return S3Objects(how)
