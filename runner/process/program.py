"""How a process of ours begins and ends: its standard files always work, and nothing that the user's code left running keeps it."""

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

PATIENCE_SECONDS = 3.0  # for threads and exit handlers, once the job's records are written


class _Unfailing(io.FileIO):
    """A standard file whose reader may go away: from then on, what is written to it goes nowhere."""

    def write(self, data: Any) -> int:
        """Write all of it to whoever reads; a full pipe that does not block is waited for."""
        try:
            while (count := super().write(data)) is None:
                select.select([], [self], [])
        except OSError:
            _silence(self.fileno())
            return len(data)
        return count


def _silence(number: int) -> None:
    """Open an unwritable standard file on the null device, for this process, its native code and its children."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def begin() -> None:
    """Make sure that standard input, output and error are open, and that writing to them never raises.

    This comes before any other file is opened: a file gets the lowest free number, so with `2>&-` a data file would become
    number 2, and every warning would be written into it. A part that is written is written, whoever reads what is said of it: a
    pipe that was closed (`| head`), a full disk or a terminal that hung up silences the file and fails nothing.
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
    """A text stream as Python would have made it, except that it fails for no reader and no character."""
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
    """Leave with an exit code, whatever threads and processes the user's code has left running.

    Python waits for every thread that is no daemon and for every child of `multiprocessing`, for ever if need be. The job is over:
    children are ended now, and threads and exit handlers get a few seconds. After that, the exit handlers run here if a thread kept
    Python from coming to them (they save what coverage or a profiler has measured), and the process ends.
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
