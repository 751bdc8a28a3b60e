"""Ray actors: a pool of predictors that each hold the model. A dead one is replaced; what it had queued goes back.

A pool of a fixed size, or one that grows while work waits and shrinks when it is idle.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile
from typing import Any, NamedTuple

from runner.errors import ConfigError, Incomplete
from runner.modes.moving import RowsInFlight
from runner.modes.remote import Box, box, execute, killed_for_memory, result_of
from runner.modes.session import Watch, capacity, is_private, remote_options
from runner.modes.work import packed
from runner.process.threads import import_ahead
from runner.types import Answer, Auto, Done, Fit, Lost, Mode, ModelSource, Pool, Positive, Seconds, Setup, Work

STILLBORN = 3  # actors in a row that die before they are up end a job that has no other


class Bounds(NamedTuple):
    """How many actors a pool has, at least and at most; the same twice for a pool of a fixed size."""

    fewest: int
    most: int


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
        pool = ActorPool(self, setup, self._bounds(found, setup))  # they start up while the model is loaded
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


@dataclass(eq=False)
class _Member:
    """One actor: its queue of calls (the oldest first), whether it is up, and since when it has been idle."""

    handle: Any
    birth: Any
    up: bool = False
    calls: deque[tuple[int, Any]] = field(default_factory=deque)
    idle_since: float = field(default_factory=time.monotonic)

    def awaited(self) -> Any:
        """The reference that it will answer next: that it is up, or its first call; `None` if it has nothing to do."""
        if not self.up:
            return self.birth
        return self.calls[0][1] if self.calls else None


class _Up:
    """The actors that are up, by the length of their queues: of the same length, those that came to it first, first."""

    def __init__(self) -> None:
        self._by_length: defaultdict[int, dict[_Member, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def __iter__(self) -> Iterator[_Member]:
        return chain.from_iterable(self._by_length.values())

    def add(self, member: _Member) -> None:
        self._by_length[len(member.calls)][member] = None

    def remove(self, member: _Member) -> None:
        del self._by_length[len(member.calls)][member]

    def idle(self) -> Iterator[_Member]:
        """The idle actors, the longest idle first."""
        return iter(self._by_length[0])

    def free(self, deep: int) -> int:
        """Free places, if each queue may become that long."""
        return sum((deep - length) * len(there) for length, there in self._by_length.items() if length < deep)

    def shortest(self) -> _Member:
        """An actor with the shortest queue. Of the idle ones it is the latest, so that the others stay idle and can be ended."""
        length = min(length for length, there in self._by_length.items() if there)
        there = self._by_length[length]
        return next(iter(there) if length else reversed(there))


class ActorPool:
    """Actors and their queues."""

    def __init__(self, mode: Actors, setup: Setup, bounds: Bounds) -> None:
        """Create as many actors as the pool always has."""
        import ray

        self._mode, self._setup, self._bounds = mode, setup, bounds
        self._model: Box | None = None
        self._rows_in_flight = RowsInFlight()
        self._class: Any = ray.remote(_Predictor).options(
            **remote_options(setup.resources), max_restarts=0, max_task_retries=0
        )
        self._watch = Watch(setup.resources)
        self._coming: dict[_Member, None] = {}
        self._up = _Up()
        self._awaited: dict[Any, _Member] = {}
        self._returned: list[Done] = []
        self._stillborn = 0
        self._work_waited = 0.0  # when it last did
        for _ in range(bounds.fewest):
            self._enter(self._create())

    def start(self, model: Box) -> None:
        """Take the model, and wait until the first actor is up, or the job is asked to stop."""
        self._model, self._rows_in_flight = model, RowsInFlight(model.key, self._setup.moved)
        deadline = time.monotonic() + self._mode.ready_timeout
        while not self._up and not self._setup.signals.asked():
            if time.monotonic() > deadline:
                raise Incomplete(
                    f"mode.ready_timeout={self._mode.ready_timeout:g}: no actor came up within that many seconds"
                )
            self.wait(0.5)

    def _create(self) -> _Member:
        handle = self._class.remote()
        return _Member(handle, handle.ready.remote(self._setup.packages))

    @property
    def _members(self) -> list[_Member]:
        return [*self._coming, *self._up]

    def _size(self) -> int:
        return len(self._coming) + len(self._up)

    def _enter(self, member: _Member) -> None:
        """Put a member into the group of its state: it comes up, or it is up."""
        if member.up:
            self._up.add(member)
        else:
            self._coming[member] = None
        if (reference := member.awaited()) is not None:
            self._awaited[reference] = member

    def _leave(self, member: _Member) -> None:
        """Take a member out of its group, before its state changes."""
        if member.up:
            self._up.remove(member)
        else:
            del self._coming[member]
        self._awaited.pop(member.awaited(), None)

    # ------------------------------------------------ growing and shrinking

    def room(self) -> int:
        """Free places in the queues of the actors that are up. While the pool can grow, calls wait for new actors instead of queuing."""
        deep = 1 if self._may_grow() else self._mode.max_tasks_in_flight_per_actor
        return self._up.free(deep)

    def _may_grow(self) -> bool:
        return self._size() < self._bounds.most

    def grow(self) -> None:
        """Create an actor, unless as many are coming up as are up. It may stay pending, which tells an autoscaler what is wanted."""
        self._work_waited = time.monotonic()
        if self._may_grow() and self._size() < 2 * len(self._up):
            self._enter(self._create())

    def _shrink(self) -> None:
        """End actors that were idle for `mode.idle_timeout`, those that are not up yet first."""
        spare, needed = self._size() - self._bounds.fewest, time.monotonic() - self._mode.idle_timeout
        if spare <= 0 or self._work_waited >= needed:
            return
        idle = (takewhile(lambda each: each.idle_since < needed, there) for there in (self._coming, self._up.idle()))
        for member in list(islice(chain.from_iterable(idle), spare)):
            self._end(member)

    def _end(self, member: _Member) -> None:
        import ray

        ray.kill(member.handle)
        self._leave(member)

    # ------------------------------------------------ calls

    def submit(self, ticket: int, work: Work) -> None:
        """Queue a call on the actor with the shortest queue."""
        member = self._up.shortest()
        call = ticket, member.handle.execute.remote(self._model, packed(work), ticket)
        self._leave(member)
        member.calls.append(call)
        self._enter(member)

    def wait(self, timeout: float) -> list[Done]:
        """All calls that have finished, once one has. Actors that died are replaced."""
        import ray

        self._shrink()
        if self._returned:
            returned, self._returned = self._returned, []
            return returned
        awaited = list(self._awaited)
        if not awaited:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(awaited, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(awaited, num_returns=len(awaited), timeout=0)
        self._watch.refresh(progressed=bool(ready))
        self._rows_in_flight.refresh(self._tickets)
        return [done for reference in ready for done in self._collect(self._awaited[reference])]

    def _collect(self, member: _Member) -> Iterator[Done]:
        if not member.up:
            self._collect_birth(member)
            return
        ticket, reference = member.calls[0]
        result = result_of(reference)
        self._rows_in_flight.over(ticket)
        self._leave(member)
        member.calls.popleft()
        member.idle_since = time.monotonic()
        self._enter(member)
        yield Done(ticket, result)
        if isinstance(result, Lost) and result.counted:
            yield from (Done(queued, Lost(result.reason, counted=False)) for queued, _ in member.calls)
            if killed_for_memory(result) and self._size() > 1:
                self._forgo(member)
            else:
                self._replace(member)

    def _collect_birth(self, member: _Member) -> None:
        import ray

        try:
            ray.get(member.birth)
        except ray.exceptions.RayError as error:
            self._stillborn += 1
            if self._stillborn >= STILLBORN and not self._up:
                raise Incomplete(f"mode=actors: {self._stillborn} actors in a row did not come up: {error}") from error
            self._replace(member)
        else:
            self._leave(member)
            member.up, member.idle_since, self._stillborn = True, time.monotonic(), 0
            self._enter(member)

    def _replace(self, member: _Member) -> None:
        import ray

        ray.kill(member.handle)
        self._leave(member)
        self._enter(self._create())

    def _forgo(self, member: _Member) -> None:
        """Run with one actor fewer from now on: a node has not enough memory for so many."""
        self._leave(member)
        most = self._size()
        self._bounds = Bounds(min(self._bounds.fewest, most), most)

    def running(self) -> list[int]:
        """The first call of each queue."""
        return [member.calls[0][0] for member in self._members if member.calls]

    def _tickets(self) -> set[int]:
        """The tickets of all calls, also of queued ones, which have reported no rows yet."""
        return {ticket for member in self._up for ticket, _ in member.calls}

    def abandon(self, ticket: int) -> None:
        """Kill the actor that holds the call; the calls queued behind it come back uncounted."""
        member = next(member for member in self._members if any(ticket == queued for queued, _ in member.calls))
        self._returned += [
            Done(queued, Lost("its actor was stopped", counted=False)) for queued, _ in member.calls if queued != ticket
        ]
        self._rows_in_flight.over(ticket)
        self._replace(member)

    def workers(self) -> int:
        """The actors that are up, or the number that the pool always has if that is more."""
        return max(len(self._up), self._bounds.fewest)

    def close(self) -> None:
        """End all actors; the session stays for the next job."""
        for member in self._members:
            self._end(member)
        self._rows_in_flight.close()
