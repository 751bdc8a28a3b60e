"""Handles SIGINT, SIGTERM and SIGHUP: the first lets the job finish what is in flight, the second stops it at once.

How a signal is handled is inherited by child processes, and the user's code may start some. If this process ignored SIGTERM (`SIG_IGN`),
they would ignore it too, and a `multiprocessing.Pool` of the user's would wait for ever for workers that it asked to terminate. So no
signal is ever set to `SIG_IGN` here; the handlers are Python functions:

- When another program is executed, the system resets handlers that are functions to the default. Only `SIG_IGN` would survive.
- A fork keeps them, though. So hooks around `os.fork` put the earlier handlers back in the new process. Between the fork and that moment,
  a signal would still run our handler in the new process, which would note it there and do nothing. So signals are blocked before the
  fork and unblocked after it, in both processes; one that comes meanwhile waits.

The hooks run for `os.fork` in Python only. A fork in native code keeps our handlers until it executes a program.
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

# Whether this module handles signals, and whether one came. While it does, a KeyboardInterrupt is one only if a signal came: the user's
# code may raise it too.
_state = {"handled here": False, "came": False}
_handlers_in_forks: dict[int, Any] = {}  # signal number to the handler that a forked process gets
_forking = threading.local()


def use_default_handlers_in_forks() -> None:
    """Make processes that fork from this one handle signals as a new Python does, whatever this process does with them."""
    _handlers_in_forks.update(DEFAULTS)
    _state["handled here"] = True


def raise_from_user_code(error: BaseException, who: str) -> NoReturn:
    """Raise what the user's code raised, but as a `RuntimeError` if it would end this process, such as `sys.exit`.

    Args:
        error: What the user's code raised.
        who: What raised it, for the message, such as `the predictor`.

    Raises:
        Exception: The error itself.
        KeyboardInterrupt: A signal came.
        RuntimeError: The error is no `Exception`; the message describes it.
    """
    interrupted = isinstance(error, KeyboardInterrupt) and (_state["came"] or not _state["handled here"])
    if isinstance(error, Exception) or interrupted:
        raise error
    called = (
        f"called sys.exit({error.code})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
    )
    raise RuntimeError(f"{who} {called}") from error


def do_nothing_on_signals() -> None:
    """Do nothing on a signal in this process; forks of it handle signals by default. System calls that one interrupts go on."""
    use_default_handlers_in_forks()
    for number in SIGNALS:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _block_signals() -> None:
    """Block signals before a fork: one that reaches the new process must wait until that process has its handlers."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _unblock_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _restore_in_child() -> None:
    for number, handler in _handlers_in_forks.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask - _handlers_in_forks.keys())
    _handlers_in_forks.clear()


os.register_at_fork(before=_block_signals, after_in_parent=_unblock_in_parent, after_in_child=_restore_in_child)


class Signals:
    """A context manager within which a first signal is only noted if work may be in flight.

    Attributes:
        number: The signal that came first, 0 for none.
        in_flight: Whether there may be work that a first signal lets finish; otherwise a first signal stops the job at once.
    """

    def __init__(self, grace_period: float = 0.0) -> None:
        """Begin without a signal; `grace_period` is how many seconds work in flight gets after the first one."""
        self.number, self.in_flight = 0, False
        self._grace_period, self._came = grace_period, 0.0
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Return whether a signal asked the job to stop."""
        self._install()  # each time, because ray.init replaces our handler for SIGTERM by its own
        return self.number != 0

    def expired(self) -> bool:
        """Return whether the grace period after a first signal is over."""
        return self.number != 0 and time.monotonic() - self._came > self._grace_period

    def raise_if_asked(self) -> None:
        """Raise an error if a signal asked the job to stop.

        Raises:
            Interrupted: It did.
        """
        if self.asked():
            raise Interrupted(self.number)

    def __enter__(self) -> Signals:
        """Install the handlers; on another thread than the main one nothing is installed, since Python does not allow it."""
        self._install()
        _state.update({"handled here": bool(self._before), "came": False})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the earlier handlers. After a second signal the error is `Interrupted`, as after a first one."""
        _state["handled here"] = False
        for number, handler in self._before.items():
            signal.signal(number, handler)
            _handlers_in_forks.pop(number, None)
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
                    _handlers_in_forks[number] = self._before.setdefault(number, current or signal.SIG_DFL)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        _state["came"] = True
        second, self.number = self.number != 0, self.number or number
        if second or not self.in_flight:
            raise KeyboardInterrupt
        self._came = time.monotonic()
