"""SIGINT and SIGTERM: the first asks the job to drain what is in flight, the second stops it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from runner.errors import Interrupted


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
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the handlers back that were there; a second signal ends like a first one that was drained."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self.number:
            raise Interrupted(self.number) from None

    def _install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            current = signal.getsignal(number)
            if current != self._note:
                self._before.setdefault(number, current)
                with contextlib.suppress(ValueError):
                    signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        second, self.number = self.number != 0, self.number or number
        if second or not self.in_flight:
            raise KeyboardInterrupt
        self._came = time.monotonic()
