"""A mode of threads: several calls at once in this process, for models that let go of Python's lock while they compute."""

from __future__ import annotations

import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from runner import ConfigError
from runner.process.threads import limit_threads
from runner.types import Answer, Done, Fit, Mode, ModelSource, Pool, Positive, Setup, Work


@dataclass(frozen=True)
class Threads(Mode):
    """Threads of this process, which share the one model.

    Attributes:
        size: How many.
        most: No more than so many.
    """

    size: Positive = 4
    most: Positive = 64

    def __post_init__(self) -> None:
        """Whatever is wrong with the arguments is told with all other problems of the config."""
        if self.size > self.most:
            raise ConfigError(f"mode.size={self.size}: is more than mode.most={self.most}")

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Load the model, then be ready for calls."""
        limit_threads(setup.num_threads)
        model.obtain()
        return ThreadsPool(model, self.size, ThreadPoolExecutor(self.size))

    def fits(self, setup: Setup) -> Fit:
        """As many as were asked for."""
        return Fit(self.size, f"mode.size={self.size} threads")

    def ignored(self) -> Collection[str]:
        """Nobody reserves anything for a thread, and nobody can stop one."""
        return "resources.num_gpus", "resources.memory", "errors.shard_timeout"


@dataclass
class ThreadsPool(Pool):
    """Calls in threads, each with its ticket until it has finished."""

    model: ModelSource
    size: int
    threads: ThreadPoolExecutor
    tickets: dict[Future[Answer], int] = field(default_factory=dict)

    def room(self) -> int:
        """Threads without a call."""
        return self.size - len(self.tickets)

    def grow(self) -> None:
        """All threads are there."""

    def submit(self, ticket: int, work: Work) -> None:
        """Give the call to a thread."""
        self.tickets[self.threads.submit(work.run, self.model)] = ticket

    def wait(self, timeout: float) -> list[Done]:
        """Every call that has finished, as soon as one has."""
        if not self.tickets:
            time.sleep(timeout)
            return []
        finished, _ = wait(self.tickets, timeout, FIRST_COMPLETED)
        return [Done(self.tickets.pop(each), each.result()) for each in finished]

    def running(self) -> list[int]:
        """None that could be stopped: so none is ever given up for taking too long."""
        return []

    def abandon(self, ticket: int) -> None:
        """Nothing is asked for here, since nothing is running that could be stopped."""

    def workers(self) -> int:
        """All threads."""
        return self.size

    def close(self) -> None:
        """Begin no further call, and wait for those that are running."""
        self.threads.shutdown(cancel_futures=True)
