"""Ray actors: a pool of predictors that each hold the model. A dead one is replaced; what it had queued goes back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from runner.errors import Incomplete
from runner.model import ModelSource
from runner.modes.remote import Box, box, execute, killed_for_memory, result_of
from runner.modes.session import Starvation, capacity, is_private, remote_options
from runner.signals import Signals
from runner.types import Answer, Auto, Done, Fit, Lost, Pool, Positive, Resources, Seconds, Setup, Work

STILLBORN = 3  # actors in a row that never came up, before the job gives in


@dataclass(frozen=True)
class Actors:
    """A pool of a fixed size.

    Attributes:
        size: Actors; `auto` is as many as fit.
        max_tasks_in_flight_per_actor: Calls queued on one actor, the running one included.
        ready_timeout: Seconds for the first actor to come up.
    """

    size: Positive | Auto = "auto"
    max_tasks_in_flight_per_actor: Positive = 2
    ready_timeout: Seconds = 300.0

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Share the model and start the actors; returns when the first is up.

        Raises:
            ConfigError: No actor fits on a private Ray, or the model cannot be pickled.
            Incomplete: None fits on a cluster, or none came up in time.
        """
        model.begin()
        found = capacity(setup)
        pool = ActorPool(self, box(model, setup), setup.resources, self._size(found, setup))
        pool.start(setup.signals)
        return pool

    def fits(self, setup: Setup) -> Fit:
        """By what each node has in all."""
        return capacity(setup)

    def _size(self, found: Fit, setup: Setup) -> int:
        if self.size == "auto":
            return found.count
        if self.size <= found.count:
            return self.size
        if is_private():
            setup.say(f"num_actors={self.size}: {found.count} fit ({found.arithmetic}); running with {found.count}")
            return found.count
        setup.say(
            f"num_actors={self.size}: {found.count} fit now ({found.arithmetic}); the others start when the cluster has room"
        )
        return self.size


class _Predictor:
    """The actor: a process that keeps its model between calls."""

    def ready(self) -> bool:
        return True

    def execute(self, model: Box, work: Work) -> Answer:
        return execute(model, work)


@dataclass(eq=False)
class _Member:
    """One actor: what it has to do, oldest first, and whether it has come up."""

    handle: Any
    birth: Any
    up: bool = False
    calls: deque[tuple[int, Any]] = field(default_factory=deque)

    def references(self) -> list[Any]:
        return [self.calls[0][1] if self.calls else None] if self.up else [self.birth]


class ActorPool:
    """Actors and their queues."""

    def __init__(self, mode: Actors, model: Box, resources: Resources, size: int) -> None:
        """Take what every actor, also a later one, is made of."""
        import ray

        self._mode, self._model, self._size = mode, model, size
        self._class: Any = ray.remote(_Predictor).options(
            **remote_options(resources), max_restarts=0, max_task_retries=0
        )
        self._starvation = Starvation(resources)
        self._members: list[_Member] = []
        self._returned: list[Done] = []
        self._stillborn = 0

    def start(self, signals: Signals) -> None:
        """Create all actors and wait for the first, unless somebody asks to stop."""
        self._members = [self._create() for _ in range(self._size)]
        deadline = time.monotonic() + self._mode.ready_timeout
        while not any(member.up for member in self._members) and not signals.asked():
            if time.monotonic() > deadline:
                raise Incomplete(
                    f"mode.ready_timeout={self._mode.ready_timeout:g}: no actor came up within that many seconds"
                )
            self.wait(0.5)

    def _create(self) -> _Member:
        handle = self._class.remote()
        return _Member(handle, handle.ready.remote())

    def room(self) -> int:
        """Free places in the queues of actors that are up."""
        return sum(
            self._mode.max_tasks_in_flight_per_actor - len(member.calls) for member in self._members if member.up
        )

    def submit(self, ticket: int, work: Work) -> None:
        """Queue a call on the actor with the shortest queue."""
        member = min((member for member in self._members if member.up), key=lambda member: len(member.calls))
        member.calls.append((ticket, member.handle.execute.remote(self._model, work)))

    def wait(self, timeout: float) -> list[Done]:
        """Everything that has finished once something has; actors that died are replaced."""
        import ray

        if self._returned:
            returned, self._returned = self._returned, []
            return returned
        heads = {
            reference: member for member in self._members for reference in member.references() if reference is not None
        }
        if not heads:
            time.sleep(timeout)
            return []
        ready, _ = ray.wait(list(heads), num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(list(heads), num_returns=len(heads), timeout=0)
        self._starvation.check(progressed=bool(ready))
        return [done for reference in ready for done in self._collect(heads[reference])]

    def _collect(self, member: _Member) -> Iterator[Done]:
        if not member.up:
            self._collect_birth(member)
            return
        ticket, reference = member.calls.popleft()
        result = result_of(reference)
        yield Done(ticket, result)
        if isinstance(result, Lost) and result.counted:
            yield from (Done(queued, Lost(result.reason, counted=False)) for queued, _ in member.calls)
            if killed_for_memory(result) and len(self._members) > 1:
                self._members.remove(member)  # fewer at once, for the rest of the job
            else:
                self._replace(member)

    def _collect_birth(self, member: _Member) -> None:
        import ray

        try:
            ray.get(member.birth)
        except ray.exceptions.RayError as error:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise Incomplete(f"mode=actors: {self._stillborn} actors in a row did not come up: {error}") from error
            self._replace(member)
        else:
            member.up, self._stillborn = True, 0

    def _replace(self, member: _Member) -> None:
        import ray

        ray.kill(member.handle)
        self._members[self._members.index(member)] = self._create()

    def running(self) -> list[int]:
        """The head of each queue."""
        return [member.calls[0][0] for member in self._members if member.calls]

    def abandon(self, ticket: int) -> None:
        """Kill the actor that holds the call; the calls queued behind it come back uncounted."""
        member = next(member for member in self._members if any(ticket == queued for queued, _ in member.calls))
        self._returned += [
            Done(queued, Lost("its actor was stopped", counted=False)) for queued, _ in member.calls if queued != ticket
        ]
        self._replace(member)

    def workers(self) -> int:
        """Actors, up or coming."""
        return len(self._members)

    def close(self) -> None:
        """End all actors; the session stays for the next job."""
        import ray

        for member in self._members:
            ray.kill(member.handle)
        self._members = []
