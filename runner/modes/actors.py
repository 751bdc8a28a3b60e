"""Ray actors that each hold the model: a pool of a fixed size, or one that grows while work waits and shrinks when it is idle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.errors import ConfigError
from runner.modes.actor_pool import ActorPool, Bounds, Member
from runner.modes.remote import Box, box, execute
from runner.modes.session import capacity, is_private, remote_options
from runner.process.threads import import_ahead
from runner.types import Answer, Auto, Fit, Mode, ModelSource, Pool, Positive, Seconds, Setup


@dataclass(frozen=True)
class Actors(Mode):
    """A pool of a fixed size, or one between two bounds.

    Attributes:
        size: Actors of a pool of a fixed size; `auto` is as many as fit.
        min_size: Actors that a pool keeps when it is idle; `None` beside `max_size` is 1.
        max_size: Actors that a pool may have while work waits; `None` beside `min_size` is as many as fit at the start.
        idle_timeout: Seconds without a call, and without work that waits, after which an actor above `min_size` is ended.
        max_tasks_in_flight_per_actor: Calls queued on one actor, the running one included; 1 while the pool may still grow.
        ready_timeout: Seconds for the first actor to come up.
    """

    size: Positive | Auto = "auto"
    min_size: Positive | None = None
    max_size: Positive | None = None
    idle_timeout: Seconds = 60.0
    max_tasks_in_flight_per_actor: Positive = 2
    ready_timeout: Seconds = 300.0

    def __post_init__(self) -> None:
        """Refuse bounds that contradict each other.

        Raises:
            ConfigError: They do.
        """
        bounds = {"mode.min_size": self.min_size, "mode.max_size": self.max_size}
        given = {key: bound for key, bound in bounds.items() if bound is not None}
        if given and self.size != "auto":
            raise ConfigError(
                f"mode.size={self.size}: is a fixed size, which makes no sense beside {' and '.join(given)}; "
                "give one or the other"
            )
        if self.min_size is not None and self.max_size is not None and self.min_size > self.max_size:
            raise ConfigError(f"mode.min_size={self.min_size}: is more than mode.max_size={self.max_size}")

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Share the model and start the actors; returns when the first is up.

        Raises:
            ConfigError: No actor fits on a private Ray, or the model cannot be pickled.
            Incomplete: None fits on a cluster, or none came up in time.
        """
        import ray  # noqa: F401  # which takes a moment, in which the input is looked at

        model.begin()
        found = capacity(setup)
        bounds = self._bounds(found, setup)
        pool = ActorPool(
            self, setup, bounds, partial(_create, _actor(setup), setup)
        )  # they start while the model is loaded
        try:
            pool.start(box(model, setup))
        except BaseException:
            pool.close()
            raise
        return pool

    def fits(self, setup: Setup) -> Fit:
        """How many actors fit, by what each node has in all."""
        return capacity(setup)

    def _bounds(self, found: Fit, setup: Setup) -> Bounds:
        if self.min_size is None and self.max_size is None:
            size = found.count if self.size == "auto" else _affordable("num_actors", self.size, found, setup)
            return Bounds(size, size)
        fewest = _affordable("mode.min_size", self.min_size or 1, found, setup)
        most = found.count if self.max_size is None else _affordable("mode.max_size", self.max_size, found, setup)
        return Bounds(fewest, max(fewest, most))


def _affordable(key: str, wanted: int, found: Fit, setup: Setup) -> int:
    """The wanted number of actors. On a private Ray, which cannot grow, only as many of them as fit."""
    if wanted <= found.count:
        return wanted
    if is_private():
        setup.say(f"{key}={wanted}: {found.count} fit ({found.arithmetic}); running with {found.count}")
        return found.count
    setup.say(f"{key}={wanted}: {found.count} fit now ({found.arithmetic}); the others start when the cluster has room")
    return wanted


class _Predictor:
    """The actor: a process that keeps its model between calls."""

    def ready(self, packages: tuple[str, ...]) -> None:
        import_ahead(packages)

    def execute(self, model: Box, work: bytes, ticket: int) -> Answer:
        return execute(model, work, ticket)


def _actor(setup: Setup) -> Any:
    """The actor's class, with what one of them asks Ray for."""
    import ray

    return ray.remote(_Predictor).options(**remote_options(setup.resources), max_restarts=0, max_task_retries=0)


def _create(actor: Any, setup: Setup) -> Member:
    handle = actor.remote()
    return Member(handle, handle.ready.remote(setup.packages))
