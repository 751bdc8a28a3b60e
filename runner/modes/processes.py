"""A pool of processes on this machine, without Ray. They map one file with the model."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import IO, Any

from runner.errors import ConfigError, Incomplete
from runner.modes.fit import ONLY_RAY, fit
from runner.modes.serve import ROWS, UP
from runner.modes.work import packed
from runner.predictor import weights
from runner.process import children
from runner.process.pulse import Moving
from runner.process.threads import thread_environment
from runner.types import Auto, Done, Fit, Lost, Mode, ModelSource, Pool, Positive, Resources, Setup, Work

STILLBORN = 3  # processes in a row that die before their first answer end the job


@dataclass(frozen=True)
class Processes(Mode):
    """Workers of our own.

    Attributes:
        num_workers: Processes; `auto` is as many as this machine has CPUs for, by `resources.num_cpus`.
    """

    num_workers: Positive | Auto = "auto"

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        """Share the model and start the processes.

        Raises:
            ConfigError: No process fits, or the model cannot be pickled.
            Incomplete: There is no room for the model.
        """
        found = self.fits(setup)
        count = found.count if self.num_workers == "auto" else self.num_workers
        if not count:
            raise ConfigError(f"resources: no process fits on this machine ({found.arithmetic}); ask for less")
        file = tempfile.TemporaryFile(prefix="runner-model-")  # noqa: SIM115
        pool = ProcessPool(file, count, setup)  # they start up while the input is looked at and the model is loaded
        try:
            model.begin()
            _keep(model.packed(), file)
        except BaseException:
            pool.close()
            raise
        return pool

    def fits(self, setup: Setup) -> Fit:
        """How many processes fit, by the CPUs that this process may use. There is nothing else to share out here."""
        there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return fit([{"CPU": float(there)}], Resources(num_cpus=setup.resources.num_cpus))

    def ignored(self) -> Collection[str]:
        """What only Ray hands out."""
        return ONLY_RAY


def _keep(parcel: weights.Parcel, file: IO[bytes]) -> None:
    """Write the packed model to a file without a name, which the system deletes when the last process that has it open ends.

    Raises:
        Incomplete: There is no room for it.
    """
    try:
        weights.save(parcel, file)
    except OSError as error:
        raise Incomplete(f"mode=processes: the model cannot be kept in {tempfile.gettempdir()}: {error}") from error


@dataclass(eq=False)
class _Member:
    """A process: its call, whether it is up, and whether it has ever answered."""

    child: children.Child
    ticket: int | None = None
    up: bool = False
    proven: bool = False


class ProcessPool:
    """Processes that each execute one call at a time."""

    def __init__(self, model: IO[bytes], size: int, setup: Setup) -> None:
        """Start all processes."""
        self._model, self._setup = model, setup
        self._stillborn = 0
        self._moving = Moving(setup.moved)
        self._ended: deque[Done] = deque()
        self._members = [self._create() for _ in range(size)]

    def _create(self) -> _Member:
        files, environment = [self._model.fileno()], thread_environment(self._setup.num_threads)
        started = children.start("runner.modes.serve", files, environment)
        started.pipe.send((self._setup.num_threads, self._setup.packages))
        return _Member(started)

    def room(self) -> int:
        """The number of idle processes."""
        return sum(member.ticket is None for member in self._members)

    def grow(self) -> None:
        """Do nothing: the pool has a fixed size."""

    def submit(self, ticket: int, work: Work) -> None:
        """Give the call to an idle process."""
        member = next(member for member in self._members if member.ticket is None)
        member.ticket = ticket
        try:
            member.child.pipe.send_bytes(packed(work))
        except ConnectionError:  # it died while it had nothing to do
            self._ended.append(self._bury(member))

    def wait(self, timeout: float) -> list[Done]:
        """All calls that have finished, once one has. Processes that died are replaced."""
        if self._ended:
            ended = list(self._ended)
            self._ended.clear()
            return ended
        busy: dict[Any, _Member] = {member.child.pipe: member for member in self._members if member.ticket is not None}
        if not busy:
            time.sleep(timeout)
            return []
        return [done for pipe in wait_for(list(busy), timeout) for done in self._collect(busy[pipe])]

    def _collect(self, member: _Member) -> Iterator[Done]:
        assert member.ticket is not None
        try:
            message = member.child.pipe.recv_bytes()
        except (EOFError, ConnectionError):
            yield self._bury(member)
            return
        if message == UP:
            member.up = True
            return
        if message.startswith(ROWS):
            self._moving.note(member.ticket, int(message.removeprefix(ROWS)))
            return
        self._moving.over(member.ticket)
        done = Done(member.ticket, pickle.loads(message))
        member.ticket, member.proven, self._stillborn = None, True, 0
        yield done

    def _bury(self, member: _Member) -> Done:
        assert member.ticket is not None
        self._moving.over(member.ticket)
        reason = f"worker process {member.child.wait_and_describe_end()}"
        self._stillborn += not member.proven
        if self._stillborn > STILLBORN * len(self._members):
            raise Incomplete(
                f"mode=processes: {self._stillborn} processes in a row died before their first answer: {reason}"
            )
        self._replace(member)
        return Done(member.ticket, Lost(reason))

    def _replace(self, member: _Member) -> None:
        self._members[self._members.index(member)] = self._create()

    def running(self) -> list[int]:
        """The calls of processes that are up: the time until a process is up does not count for its call."""
        return [member.ticket for member in self._members if member.ticket is not None and member.up]

    def abandon(self, ticket: int) -> None:
        """Kill the process that has the call."""
        member = next(member for member in self._members if member.ticket == ticket)
        member.child.stop()
        self._moving.over(ticket)
        self._replace(member)

    def workers(self) -> int:
        """The number of processes."""
        return len(self._members)

    def close(self) -> None:
        """End all processes, and close the file with the model."""
        for member in self._members:
            member.child.stop()
        self._model.close()
