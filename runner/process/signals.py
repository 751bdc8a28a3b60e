"""SIGINT, SIGTERM and SIGHUP: the first asks the job to drain what is in flight, the second stops it at once.

How a signal is handled is inherited: what ignores SIGTERM has children that ignore it, and a pool of theirs waits for ever for the
processes that it told to end. So no signal is ever ignored here: handlers are Python functions, which end where another program is
run, and hooks around `os.fork` put the earlier handlers back in a process that forks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

from runner.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DEFAULTS: dict[int, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}

_heeded = {
    "by us": False,
    "came": False,
}  # whether signals are handled here, so that a KeyboardInterrupt is one only if one came
_in_forks: dict[int, Any] = {}  # what a process that forks from this one does with a signal, by its number
_forking = threading.local()


def forks_by_default() -> None:
    """Processes that fork from this one handle signals as a new Python does, whatever this one does with them."""
    _in_forks.update(DEFAULTS)
    _heeded["by us"] = True


def raise_as_error(error: BaseException, who: str) -> NoReturn:
    """Raise what the user's code raised; what would end this process, such as `sys.exit`, as an error of that code.

    Raises:
        KeyboardInterrupt: A signal came.
        RuntimeError: What is no `Exception`, in words.
    """
    interrupted = isinstance(error, KeyboardInterrupt) and (_heeded["came"] or not _heeded["by us"])
    if isinstance(error, Exception) or interrupted:
        raise error
    called = (
        f"called sys.exit({error.code})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
    )
    raise RuntimeError(f"{who} {called}") from error


def disregard() -> None:
    """Do nothing on a signal, here alone; system calls that it interrupts go on."""
    forks_by_default()
    for number in SIGNALS:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _hold() -> None:
    """Before a fork: a signal that comes to the new process before it has its own handlers must wait for them."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _go_on() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _begin_as_fork() -> None:
    for number, handler in _in_forks.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask - _in_forks.keys())
    _in_forks.clear()


os.register_at_fork(before=_hold, after_in_parent=_go_on, after_in_child=_begin_as_fork)


class Signals:
    """A context in which the first signal is only noted, from the moment that work may be in flight.

    Attributes:
        number: The signal that came, 0 for none.
        in_flight: Whether there may be work that a first signal lets finish; before, it stops at once.
    """

    def __init__(self, grace_period: float = 0.0) -> None:
        """Nothing has come yet; `grace_period` is the seconds that follow a first signal."""
        self.number, self.in_flight = 0, False
        self._grace_period, self._came = grace_period, 0.0
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether the job was asked to stop."""
        self._install()  # again: ray.init puts its own handler for SIGTERM in place
        return self.number != 0

    def expired(self) -> bool:
        """Whether the grace after a first signal is over."""
        return self.number != 0 and time.monotonic() - self._came > self._grace_period

    def raise_if_asked(self) -> None:
        """Stop here if the job was asked to.

        Raises:
            Interrupted: It was.
        """
        if self.asked():
            raise Interrupted(self.number)

    def __enter__(self) -> Signals:
        """Take over the handlers; only a process's main thread can."""
        self._install()
        _heeded.update({"by us": bool(self._before), "came": False})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back that were there; a second signal ends like a first one that was drained."""
        _heeded["by us"] = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
            _in_forks.pop(number, None)
        if isinstance(error, KeyboardInterrupt) and self.number:
            raise Interrupted(self.number) from None

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            current = signal.getsignal(number)
            if current != self._note and not (number == signal.SIGHUP and current == signal.SIG_IGN):  # `nohup`
                with contextlib.suppress(ValueError):
                    signal.signal(number, self._note)
                    _in_forks[number] = self._before.setdefault(number, current or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        _heeded["came"] = True
        second, self.number = self.number != 0, self.number or number
        if second or not self.in_flight:
            raise KeyboardInterrupt
        self._came = time.monotonic()
