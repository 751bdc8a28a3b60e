"""A pool of Ray actors and their queues. A dead actor is replaced; the calls that were queued on it come back."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile
from typing import Any, NamedTuple, Protocol

from runner.errors import Incomplete
from runner.modes.moving import RowsInFlight
from runner.modes.remote import Box, killed_for_memory, result_of
from runner.modes.session import Watch
from runner.modes.work import packed
from runner.types import Done, Lost, Setup, Work

STILLBORN = 3  # actors in a row that die before they are up end a job that has no other


class Bounds(NamedTuple):
    """How many actors a pool has, at least and at most; the same twice for a pool of a fixed size."""

    fewest: int
    most: int


class Limits(Protocol):
    """Of `mode=actors`."""

    @property
    def idle_timeout(self) -> float:
        """Seconds after which an idle actor may be ended."""

    @property
    def max_tasks_in_flight_per_actor(self) -> int:
        """Calls queued on one actor, the running one included."""

    @property
    def ready_timeout(self) -> float:
        """Seconds for the first actor to come up."""


@dataclass(eq=False)
class Member:
    """One actor: its queue of calls (the oldest first), whether it is up, and since when it has been idle."""

    handle: Any
    birth: Any
    up: bool = False
    calls: deque[tuple[int, Any]] = field(default_factory=deque)
    idle_since: float = 0.0

    def awaited(self) -> Any:
        """The reference that it will answer next: that it is up, or its first call; `None` if it has nothing to do."""
        if not self.up:
            return self.birth
        return self.calls[0][1] if self.calls else None


class Queues:
    """The actors that are up, by the length of their queues. Among equal lengths they stand in the order in which they came to it."""

    def __init__(self) -> None:
        self._by_length: defaultdict[int, dict[Member, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def __iter__(self) -> Iterator[Member]:
        return chain.from_iterable(self._by_length.values())

    def add(self, member: Member) -> None:
        self._by_length[len(member.calls)][member] = None

    def remove(self, member: Member) -> None:
        del self._by_length[len(member.calls)][member]

    def idle(self) -> Iterator[Member]:
        """The idle actors, the longest idle first."""
        return iter(self._by_length[0])

    def free(self, deep: int) -> int:
        """Free places, if each queue may become that long."""
        return sum((deep - length) * len(there) for length, there in self._by_length.items() if length < deep)

    def shortest(self) -> Member:
        """An actor with the shortest queue. Of the idle ones it is the latest, so that the others stay idle and can be ended."""
        length = min(length for length, there in self._by_length.items() if there)
        there = self._by_length[length]
        return next(iter(there) if length else reversed(there))


class ActorPool:
    """Actors and their queues.

    Attributes:
        bounds: How many actors there may be. The most becomes less where a node has not enough memory.
    """

    def __init__(
        self,
        limits: Limits,
        setup: Setup,
        bounds: Bounds,
        create: Callable[[], Member],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create as many actors as the pool always has.

        Args:
            limits: How long calls and actors may wait.
            setup: What the mode is told of the job.
            bounds: How many actors there may be.
            create: Starts an actor.
            now: Seconds of a clock that never goes back.
        """
        self._limits, self._setup, self.bounds, self._create, self._now = limits, setup, bounds, create, now
        self._model: Box | None = None
        self._rows_in_flight = RowsInFlight()
        self._watch = Watch(setup.resources)
        self._coming: dict[Member, None] = {}
        self._up = Queues()
        self._awaited: dict[Any, Member] = {}
        self._returned: list[Done] = []
        self._stillborn = 0
        self._work_waited = 0.0  # when it last did
        for _ in range(bounds.fewest):
            self._add()

    def start(self, model: Box) -> None:
        """Take the model, and wait until the first actor is up, or the job is asked to stop."""
        self._model, self._rows_in_flight = model, RowsInFlight(model.key, self._setup.moved)
        deadline = self._now() + self._limits.ready_timeout
        while not self._up and not self._setup.signals.asked():
            if self._now() > deadline:
                raise Incomplete(
                    f"mode.ready_timeout={self._limits.ready_timeout:g}: no actor came up within that many seconds"
                )
            self.wait(0.5)

    @property
    def members(self) -> list[Member]:
        """All actors, those that are not up yet first."""
        return [*self._coming, *self._up]

    def _add(self) -> None:
        member = self._create()
        member.idle_since = self._now()
        self._enter(member)

    def _size(self) -> int:
        return len(self._coming) + len(self._up)

    def _enter(self, member: Member) -> None:
        """Put a member into the group of its state: it comes up, or it is up."""
        if member.up:
            self._up.add(member)
        else:
            self._coming[member] = None
        if (reference := member.awaited()) is not None:
            self._awaited[reference] = member

    def _leave(self, member: Member) -> None:
        """Take a member out of its group, before its state changes."""
        if member.up:
            self._up.remove(member)
        else:
            del self._coming[member]
        self._awaited.pop(member.awaited(), None)

    # ------------------------------------------------ growing and shrinking

    def room(self) -> int:
        """Free places in the queues of the actors that are up. While the pool can grow, calls wait for new actors instead of queuing."""
        deep = 1 if self._may_grow() else self._limits.max_tasks_in_flight_per_actor
        return self._up.free(deep)

    def _may_grow(self) -> bool:
        return self._size() < self.bounds.most

    def grow(self) -> None:
        """Create an actor, unless as many are coming up as are up. It may stay pending, which tells an autoscaler what is wanted."""
        self._work_waited = self._now()
        if self._may_grow() and self._size() < 2 * len(self._up):
            self._add()

    def _shrink(self) -> None:
        """End actors that were idle for `mode.idle_timeout`, those that are not up yet first."""
        spare, needed = self._size() - self.bounds.fewest, self._now() - self._limits.idle_timeout
        if spare <= 0 or self._work_waited >= needed:
            return
        idle = (takewhile(lambda each: each.idle_since < needed, there) for there in (self._coming, self._up.idle()))
        for member in list(islice(chain.from_iterable(idle), spare)):
            self._end(member)

    def _end(self, member: Member) -> None:
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

    def _collect(self, member: Member) -> Iterator[Done]:
        if not member.up:
            self._collect_birth(member)
            return
        ticket, reference = member.calls[0]
        result = result_of(reference)
        self._rows_in_flight.over(ticket)
        self._leave(member)
        member.calls.popleft()
        member.idle_since = self._now()
        self._enter(member)
        yield Done(ticket, result)
        if isinstance(result, Lost) and result.counted:
            yield from (Done(queued, Lost(result.reason, counted=False)) for queued, _ in member.calls)
            if killed_for_memory(result) and self._size() > 1:
                self._forgo(member)
            else:
                self._replace(member)

    def _collect_birth(self, member: Member) -> None:
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
            member.up, member.idle_since, self._stillborn = True, self._now(), 0
            self._enter(member)

    def _replace(self, member: Member) -> None:
        import ray

        ray.kill(member.handle)
        self._leave(member)
        self._add()

    def _forgo(self, member: Member) -> None:
        """Run with one actor fewer from now on: a node has not enough memory for so many."""
        self._leave(member)
        most = self._size()
        self.bounds = Bounds(min(self.bounds.fewest, most), most)

    def running(self) -> list[int]:
        """The first call of each queue."""
        return [member.calls[0][0] for member in self.members if member.calls]

    def _tickets(self) -> set[int]:
        """The tickets of all calls, also of queued ones, which have reported no rows yet."""
        return {ticket for member in self._up for ticket, _ in member.calls}

    def abandon(self, ticket: int) -> None:
        """Kill the actor that holds the call; the calls queued behind it come back uncounted."""
        member = next(member for member in self.members if any(ticket == queued for queued, _ in member.calls))
        self._returned += [
            Done(queued, Lost("its actor was stopped", counted=False)) for queued, _ in member.calls if queued != ticket
        ]
        self._rows_in_flight.over(ticket)
        self._replace(member)

    def workers(self) -> int:
        """The actors that are up, or the number that the pool always has if that is more."""
        return max(len(self._up), self.bounds.fewest)

    def close(self) -> None:
        """End all actors; the session stays for the next job."""
        for member in self.members:
            self._end(member)
        self._rows_in_flight.close()
