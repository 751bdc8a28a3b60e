"""Run a Python module as a child process with a pipe to this one, tell how it ended, and end it with all that it started.

The child is a fresh interpreter, not a fork: Arrow, torch and Ray run threads, and a fork of a process with threads may find a lock held
by a thread that it does not have, and wait for it for ever. `multiprocessing` with `spawn` would do for that, but it imports the user's
`__main__` again, and its children share this process's group.

The child starts a session, so it leads a process group of its own. Ctrl-C and a closed terminal send their signals to the group in the
foreground, so they reach neither the child nor what the user's code starts in it: this process alone decides what a signal means. And
one `killpg` ends the child with all processes that it started, except one that starts a session itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from runner.process.signals import SIGNALS, do_nothing_on_signals


@dataclass(frozen=True, eq=False)
class Child:
    """A running child process and our end of its pipe.

    Attributes:
        process: The process.
        pipe: Our end of the pipe. When the process ends, its end is closed, and `recv_bytes` here raises `EOFError`.
    """

    process: subprocess.Popen[bytes]
    pipe: Connection[Any, Any]

    def wait_and_describe_end(self) -> str:
        """Wait for its end, stop what it had started, and return how it ended; to be called after the pipe has raised `EOFError`.

        `WNOWAIT` leaves the ended process in the process table. Its number, which is also that of its group, can therefore not be given
        to a new process before `stop` has sent the signal to the group.
        """
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self.stop()
        code = self.process.wait()
        return f"died of signal {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"

    def stop(self) -> None:
        """Kill the process and what it has started; a process that was waited for is left alone.

        The system gives its number to no other process until it is waited for, so the signal cannot reach a foreign group. The pipe is
        closed last, since a living process that finds it closed would print an error.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.pipe.close()


def end_with_parent(parent: int) -> None:
    """Make this process end when its parent ends, and do nothing on signals. To be called by the child.

    The parent alone decides what a signal means that every process receives (systemd sends one to each). When the parent is gone, this
    process ends at once with all that it has started, even in the middle of a call: a parent that was killed cannot stop its children.
    A thread asks for the parent's number every second. Linux could send a signal instead (`PR_SET_PDEATHSIG`), but it sends it when the
    parent's thread that started the child ends, which may be long before the parent does.

    Args:
        parent: The parent's process number.
    """
    do_nothing_on_signals()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def inherited_pipe_and_files() -> tuple[Connection[Any, Any], list[int]]:
    """Return the child's end of the pipe and the file descriptors that `start` passed. To be called by the child.

    They are closed in what this process itself starts: another process that held the pipe would keep it open after this one has died,
    and the parent would never see `EOFError`.
    """
    numbers = [int(number) for number in sys.argv[1:]]
    for number in numbers:
        os.set_inheritable(number, False)
    pipe: Connection[Any, Any] = Connection(numbers[0])
    os.register_at_fork(after_in_child=pipe.close)
    return pipe, numbers[1:]


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(module: str, files: Sequence[int] = (), environment: Mapping[str, str] | None = None) -> Child:
    """Run `python -m module PIPE FILES...` in a child process that can import whatever this process can.

    Args:
        module: A module whose `__main__` takes file descriptors as its arguments, its end of the pipe first.
        files: File descriptors that it inherits under the same numbers.
        environment: Variables that are added to those of this process.

    Returns:
        The running child.
    """
    ours, theirs = Pipe()
    numbers = [theirs.fileno(), *files]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": path}
    with _blocked(SIGNALS):  # the child inherits the mask, so that no signal ends it before it has its own handlers
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, numbers)],
            pass_fds=numbers,
            env=variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    theirs.close()
    return Child(process, ours)
