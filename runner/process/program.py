"""Begins and ends a process: writing to its standard files never fails, and nothing that the user's code left running keeps it alive."""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

PATIENCE_SECONDS = 3.0  # that threads and exit handlers get, after the job's records are written


class _Unfailing(io.FileIO):
    """A standard file that never raises when it is written to.

    Once a write has failed, because the reader is gone or the disk is full, the file descriptor is replaced by the null device. That is
    done to the descriptor and not only to this object, because native code and child processes write to the same descriptor.
    """

    def write(self, data: Any) -> int:
        """Write all bytes; if the pipe is full and does not block, wait until it can be written to."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            _silence(self.fileno())
            return len(data)
        return count


def _silence(number: int) -> None:
    """Replace a standard file by the null device, for this process, its native code and its children."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def begin() -> None:
    """Make sure that standard input, output and error are open, and that writing to them never raises.

    To be called before any other file is opened. A new file gets the lowest free descriptor: if the shell closed stderr (`2>&-`), a data
    file would get number 2, and every warning would be written into it. And what is printed about a part must not decide whether the
    part is written: a closed pipe (`| head`), a full disk or a terminal that hung up silences a standard file and fails nothing.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]


def _stream(number: int, before: Any) -> io.TextIOWrapper:
    """Return a text stream as Python would make it, except that neither a lost reader nor any character makes it fail."""
    if before is not None:
        before.flush()
    raw = _Unfailing(number, "w", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
    )
    stream.mode = "w"  # type: ignore[misc]
    return stream


def end(code: int) -> NoReturn:
    """Exit with a code, whatever threads and processes the user's code has left running.

    `sys.exit` alone may never end: Python waits for every non-daemon thread and for every child of `multiprocessing`. `os._exit` alone
    would skip the exit handlers, in which coverage and profilers save what they have measured. So children are killed now, and
    `sys.exit` gets `PATIENCE_SECONDS`. A daemon thread then ends the process; if Python has not reached the exit handlers by then, because
    it still waits for a thread, the daemon thread calls them first. A second one ends the process if a handler hangs, after twice the time.

    Python calls the handlers in reverse order, so the one that is registered here, `reached.set`, is the first.
    """
    _end_children()
    reached = threading.Event()
    atexit.register(reached.set)
    _later(PATIENCE_SECONDS, lambda: _force(code, reached))
    _later(2 * PATIENCE_SECONDS, lambda: os._exit(code))
    sys.exit(code)


def _end_children() -> None:
    multiprocessing: Any = sys.modules.get("multiprocessing")
    for child in multiprocessing.active_children() if multiprocessing else ():
        with contextlib.suppress(Exception):
            child.kill()


def _later(seconds: float, act: Callable[[], None]) -> None:
    def wait() -> None:
        time.sleep(seconds)
        act()

    threading.Thread(target=wait, name="end", daemon=True).start()


def _force(code: int, reached: threading.Event) -> None:
    if not reached.is_set():
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
