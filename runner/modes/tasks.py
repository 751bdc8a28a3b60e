"""Ray tasks: each call is a task. Ray reuses worker processes, and each keeps the model after its first call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from runner.modes.moving import RowsInFlight
from runner.modes.remote import Box, box, execute, killed_for_memory, result_of
from runner.modes.session import Watch, capacity, remote_options
from runner.modes.work import packed
from runner.process.threads import import_ahead
from runner.types import Auto, Done, Fit, Mode, ModelSource, Pool, Positive, Setup, Work

MOST_AHEAD = 32  # workers that import ahead of their first call


@dataclass(frozen=True)
class Tasks(Mode):
    """Stateless calls.

    Attributes:
        max_in_flight: Calls outstanding at once; `auto` keeps one queued behind each that fits, also when nodes join or leave.
    """

    max_in_flight: Positive | Auto = "auto"

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Share the model and be ready for calls.

        Raises:
            ConfigError: No task fits on a private Ray, or the model cannot be pickled.
            Incomplete: None fits on a cluster, not even after waiting.
        """
        import ray  # which takes a moment, in which the input is looked at

        model.begin()
        found = capacity(setup)
        # Tries are ours to count: Ray-level retries are off. Processes stay: max_calls would reload the model every time.
        task = ray.remote(**remote_options(setup.resources), max_retries=0, max_calls=0)
        for _ in range(min(found.count, MOST_AHEAD)):
            task(import_ahead).remote(setup.packages)
        model_box = box(model, setup)
        rows_in_flight = RowsInFlight(model_box.key, setup.moved)
        return TaskPool(task(execute), model_box, self.max_in_flight, Watch(setup.resources), rows_in_flight)

    def fits(self, setup: Setup) -> Fit:
        """How many tasks fit, by what each node has in all."""
        return capacity(setup)


@dataclass
class TaskPool:
    """Tasks in flight, oldest first.

    Attributes:
        remote: The task.
        model: What each is given beside its work.
        max_in_flight: Outstanding at once, as configured.
        watch: Tells how many fit.
        rows_in_flight: Sees how far calls are.
        flying: Ticket to reference.
        kills: Tasks that Ray's memory monitor took so far.
    """

    remote: Any
    model: Box
    max_in_flight: int | Auto
    watch: Watch
    rows_in_flight: RowsInFlight = field(default_factory=RowsInFlight)
    flying: dict[int, Any] = field(default_factory=dict)
    kills: int = 0

    def room(self) -> int:
        """How many more calls may be submitted."""
        return self._limit() - len(self.flying)

    def grow(self) -> None:
        """Do nothing: Ray starts processes, and an autoscaler sees the tasks that wait."""

    def _limit(self) -> int:
        """Never 0: what is queued where nothing fits is what an autoscaler goes by."""
        fits = self.watch.fits()
        limit = 2 * fits if self.max_in_flight == "auto" else self.max_in_flight
        return max(1, min(limit, fits) - self.kills if self.kills else limit)

    def submit(self, ticket: int, work: Work) -> None:
        """Submit a task."""
        self.flying[ticket] = self.remote.remote(self.model, packed(work), ticket)

    def wait(self, timeout: float) -> list[Done]:
        """All calls that have finished, once one has."""
        import time

        import ray

        if not self.flying:
            time.sleep(timeout)
            return []
        references = list(self.flying.values())
        ready, _ = ray.wait(references, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        self.watch.refresh(progressed=bool(ready))
        self.rows_in_flight.refresh(lambda: self.flying)
        finished = set(ready)
        tickets = [ticket for ticket, reference in self.flying.items() if reference in finished]
        done = [Done(ticket, result_of(self.flying.pop(ticket))) for ticket in tickets]
        for each in done:
            self.rows_in_flight.over(each.ticket)
        self.kills += sum(killed_for_memory(each.result) for each in done)
        return done

    def running(self) -> list[int]:
        """The tickets of the oldest calls, as many as fit at once."""
        return list(self.flying)[: self.watch.fits()]

    def abandon(self, ticket: int) -> None:
        """Kill the worker process of a task."""
        import ray

        ray.cancel(self.flying.pop(ticket), force=True)
        self.rows_in_flight.over(ticket)

    def workers(self) -> int:
        """How many workers fit at once."""
        return self.watch.fits()

    def close(self) -> None:
        """Cancel what is in flight; the session stays for the next job.

        Not what still imports: broken off, it would leave a worker process with half a package, which cannot be imported again.
        """
        for ticket in list(self.flying):
            self.abandon(ticket)
        self.rows_in_flight.close()
