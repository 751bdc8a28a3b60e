"""This very process, one call at a time: for a debugger, and for tiny jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from runner.modes.fit import ONLY_RAY
from runner.predictor.calling import LocalCaller
from runner.predictor.vitals import with_vitals
from runner.process.overlap import background
from runner.process.pulse import PULSE, Moving
from runner.process.threads import limit_threads
from runner.types import Caller, Done, Mode, Model, ModelSource, Pool, Setup, StopRequest, Vitals, Work

T = TypeVar("T")


def beside_a_loop(act: Callable[[], T]) -> T:
    """Call a function here, or in another thread if this one runs an event loop, as in a notebook: it may start a loop of its own."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return act()
    return background(act).result()


@dataclass(frozen=True)
class Inline(Mode):
    """Predict in this very process, without workers."""

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Bound the native thread pools as a worker would."""
        limit_threads(setup.num_threads)
        if model.on_driver:
            beside_a_loop(model.predictor)
        return InlinePool(_Stoppable(model, setup.signals), Moving(setup.moved))

    def ignored(self) -> Collection[str]:
        """What only Ray hands out, and the time limit: a call in this process cannot be stopped from within it."""
        return (*ONLY_RAY, "errors.shard_timeout")


@dataclass(frozen=True)
class _Stoppable:
    """The model with a predictor that ends the job before the next batch, once the grace period after a signal is over."""

    model: ModelSource
    signals: StopRequest

    def obtain(self) -> Caller:
        return LocalCaller(self.model.predictor(), self._refuse_late)

    def _refuse_late(self) -> None:
        if self.signals.expired():
            raise KeyboardInterrupt

    def portable(self) -> bytes:
        return self.model.portable()

    def vitals(self) -> Vitals:
        return self.model.vitals()


@dataclass
class InlinePool:
    """Executes a call when somebody waits for it, so that a stop is noticed between two calls."""

    model: Model
    moving: Moving = field(default_factory=Moving)
    queue: list[tuple[int, Work]] = field(default_factory=list)

    def room(self) -> int:
        """One call at a time."""
        return 1 - len(self.queue)

    def grow(self) -> None:
        """Do nothing: there is only this process."""

    def submit(self, ticket: int, work: Work) -> None:
        """Keep the call for `wait`."""
        self.queue.append((ticket, work))

    def wait(self, timeout: float) -> list[Done]:
        """Run what was submitted."""
        import time

        if not self.queue:
            time.sleep(timeout)
            return []
        ticket, work = self.queue.pop()
        PULSE.begin(partial(self.moving.note, ticket))
        done = Done(ticket, with_vitals(beside_a_loop(lambda: work.run(self.model)), self.model))
        self.moving.over(ticket)
        return [done]

    def running(self) -> list[int]:
        """None: nothing runs while nobody waits."""
        return []

    def abandon(self, ticket: int) -> None:
        """Do nothing: no call can be in flight."""

    def workers(self) -> int:
        """One: this process."""
        return 1

    def close(self) -> None:
        """Do nothing: nothing was started."""
