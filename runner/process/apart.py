"""A process of our own beside this one: a module that is run with a pipe to us, and told apart from Ray's.

It has a session of its own. So neither Ctrl-C nor a closed terminal reaches it or what the user's code starts in it: this process
alone decides what those mean. And all of them end together, by one signal to their group.
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

from runner.process.signals import SIGNALS, disregard


@dataclass(frozen=True, eq=False)
class Apart:
    """A running process and our end of its pipe.

    Attributes:
        process: The process.
        pipe: Closed when the process ends, which a `recv_bytes` then tells by `EOFError`.
    """

    process: subprocess.Popen[bytes]
    pipe: Connection[Any, Any]

    def obituary(self) -> str:
        """How it ended, once the pipe has told that it did; what it had started ends with it."""
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        self.stop()
        code = self.process.wait()
        return f"died of signal {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"

    def stop(self) -> None:
        """End it now, and what it has started.

        Its number stays its own until it is waited for, so the signal can reach no other group. The pipe is closed last: a process
        that found it closed would have something to say about that.
        """
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.pipe.close()


def belong_to(parent: int) -> None:
    """Live and end with the parent.

    It alone decides what a signal to every process means (systemd), so this process disregards them. And when it is gone this process
    ends with all that it has started, also in the middle of a call: a killed parent cannot stop what is stuck.
    """
    disregard()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def inherited() -> tuple[Connection[Any, Any], list[int]]:
    """What this process was started with: its end of the pipe and the files, which its own children do not get.

    A child that held the pipe would keep it open after this process has died, and nobody would notice the death.
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


def start(module: str, files: Sequence[int] = (), environment: Mapping[str, str] | None = None) -> Apart:
    """Run `python -m module PIPE FILES...`, where it imports what this process could import.

    Args:
        module: Whose `__main__` takes the numbers of its open files as arguments, its end of the pipe first.
        files: Open files to inherit.
        environment: Variables beside this process's own.
    """
    ours, theirs = Pipe()
    numbers = [theirs.fileno(), *files]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": path}
    with _blocked(SIGNALS):  # which is inherited: until it disregards them, they must not end it either
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, numbers)],
            pass_fds=numbers,
            env=variables,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    theirs.close()
    return Apart(process, ours)
