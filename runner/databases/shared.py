"""One open DuckDB file for each process, however many connections it has.

DuckDB locks its file with POSIX locks, which do not hold between two that open the same file in one process. Each would then keep pages
of its own, and the file would be damaged. So a process opens a file once, and what wants to read or write it gets a connection to that.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class _Open:
    """A file that is open.

    Attributes:
        connection: The first connection. Others are its clones.
        read_only: Whether it was opened so.
        users: How many are using it.
    """

    connection: Any
    read_only: bool
    users: int = 0


_files: dict[str, _Open] = {}
_opening = threading.RLock()  # the collector of garbage may close a connection while this thread opens another


@contextlib.contextmanager
def connection(path: str, read_only: bool, connect: Callable[[], Any]) -> Iterator[Any]:
    """Yield a connection to a file, which is opened by `connect` if this process has not opened it.

    Raises:
        ConnectionError: This process is reading the file, so that it cannot write it now.
    """
    with _opening:
        opened = _files.get(path)
        if opened is None:
            opened = _files[path] = _Open(connect(), read_only)
        opened.users += 1
    try:
        if opened.read_only and not read_only:
            raise ConnectionError(f"{path} is being read by this process, and DuckDB cannot write it meanwhile")
        with contextlib.closing(_clone(opened)) as own:
            yield own
    finally:
        _leave(path, opened)


def _clone(opened: _Open) -> Any:
    with _opening:
        return opened.connection.adbc_clone()


def _leave(path: str, opened: _Open) -> None:
    with _opening:
        opened.users -= 1
        if not opened.users:
            del _files[path]
            opened.connection.close()
