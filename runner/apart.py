"""A process of our own beside this one: a module that is run with a pipe to us, and told apart from Ray's."""

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

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
        """How it ended, once the pipe has told that it did."""
        code = self.process.wait()
        self.pipe.close()
        return f"died of signal {signal.Signals(-code).name}" if code < 0 else f"left with exit code {code}"

    def stop(self) -> None:
        """End it now."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


def belong_to(parent: int) -> None:
    """Live and end with the parent.

    It alone decides what a signal to the whole group means (Ctrl-C, `timeout`, systemd), so this process ignores them. And when it
    is gone this process ends, also in the middle of a call: a killed parent cannot stop what is stuck.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


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
    with _blocked(SIGNALS):  # which is inherited: until it ignores them, they must not end it either
        process = subprocess.Popen([sys.executable, "-m", module, *map(str, numbers)], pass_fds=numbers, env=variables)
    theirs.close()
    return Apart(process, ours)
