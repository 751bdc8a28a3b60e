"""What a mode and its pool promise, as a check."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from runner.predictor.shipping import Shipper
from runner.process.signals import Signals
from runner.types import (
    Answer,
    Done,
    Errors,
    Fit,
    Lost,
    Mode,
    Model,
    Pool,
    Predictor,
    RayOptions,
    Receipt,
    Resources,
    Setup,
    Stages,
)

CALLS = 12  # at least, that are to be answered
MOST_ROOM = 10_000  # calls: a pool that takes more has no bound
PATIENCE_SECONDS = 120.0  # for whatever must happen in the end
GROUPS = {"resources": Resources, "errors": Errors}


def check_mode(mode: Mode, resources: Resources | None = None) -> None:
    """Hold a mode against what runs rely on. Its workers must run on this machine, since each call leaves a file here.

    Where they are processes of their own, one is killed and one is abandoned.

    Args:
        mode: It is opened, given calls, and closed.
        resources: What each worker asks for; by default one CPU.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Mode` or `runner.types.Pool`.
    """
    setup = Setup(resources or Resources(), RayOptions(), 1, None, _unheard, Signals())
    _check_what_it_tells(mode, setup)
    with tempfile.TemporaryDirectory() as folder:
        pool = mode.open(Shipper(_load, on_driver=True), setup)
        calls = _Calls(pool, Path(folder))
        try:
            assert pool.wait(0) == [], "wait() must return nothing where nothing was submitted"
            _check_answers(calls)
            if calls.process_of(1) != os.getpid():
                _check_lost(calls)
                _check_abandoned(calls)
                calls.begin("stay")
        finally:
            pool.close()
        calls.check_ended("close()")


def _load() -> Predictor:
    return abs


def _unheard(_: str) -> None:
    """Notices are for people."""


def _check_what_it_tells(mode: Mode, setup: Setup) -> None:
    found = mode.fits(setup)
    assert found is None or isinstance(found, Fit), f"fits() must return a Fit, or None: {found!r}"
    known = [f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)]
    unknown = [key for key in mode.ignored() if key not in known]
    assert not unknown, f"ignored() must name keys of resources and errors: {unknown}"


def _check_answers(calls: _Calls) -> None:
    """Each call is executed once, and its own answer comes back once, in whatever order."""
    while calls.submitted < CALLS:
        while calls.pool.room() > 0:
            assert calls.submitted < MOST_ROOM, "room() must be 0 or less once enough calls were submitted"
            calls.submit("answer")
        calls.until(lambda: calls.pool.room() > 0, "room() must be more than 0 again once calls have come back")
    assert calls.pool.workers() >= 1, "workers() must count the workers that there are"
    calls.until(lambda: not calls.out, "wait() must return every call in the end")


def _check_lost(calls: _Calls) -> None:
    """A worker that dies is told as lost, and others go on."""
    ticket = calls.begin("die")
    calls.until(lambda: ticket not in calls.out, "wait() must return a call whose worker died")
    assert ticket in calls.lost, "a call whose worker died must come back as Lost"
    _check_goes_on(calls, "a worker died")


def _check_abandoned(calls: _Calls) -> None:
    """A worker that is given up is stopped, and its call never comes back."""
    ticket = calls.begin("stay")
    calls.until(lambda: ticket in calls.pool.running(), "running() must tell a call that a worker is at")
    calls.pool.abandon(ticket)
    calls.out.remove(ticket)
    _check_goes_on(calls, "a call was abandoned")
    calls.check_ended("abandon()")


def _check_goes_on(calls: _Calls, after: str) -> None:
    ticket = calls.begin("answer")
    calls.until(lambda: ticket not in calls.out, f"the pool must go on after {after}")
    assert ticket not in calls.lost, f"a call must be answered after {after}"


@dataclass(frozen=True)
class _Call:
    """Work that leaves a file, and then does as it is told.

    Attributes:
        folder: Where the file goes. Its name tells the ticket and the process.
        ticket: Under which the call is submitted.
        act: `answer`, `die`, or `stay` until somebody ends the process.
    """

    folder: str
    ticket: int
    act: str

    def run(self, model: Model) -> Answer:
        """Answer with a receipt that names this call."""
        Path(self.folder, f"{self.ticket}-{os.getpid()}-{uuid.uuid4().hex}").touch()
        if self.act == "die":
            os._exit(3)
        if self.act == "stay":
            time.sleep(10 * PATIENCE_SECONDS)
        [rows] = model.obtain()([-self.ticket])
        return [Receipt(str(self.ticket), rows, rows, 0, 0, "", Stages(), str(os.getpid()))]


class _Calls:
    """The calls that a pool is given.

    Attributes:
        pool: Executes them.
        submitted: How many there were, which is also the last ticket.
        out: Tickets of calls that have not come back.
        lost: Tickets of calls that came back without an answer.
        stuck: Processes that would never end by themselves.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        """Take the pool, and where calls leave their files."""
        self.pool, self._folder, self.submitted = pool, folder, 0
        self.out: set[int] = set()
        self.lost: set[int] = set()
        self.stuck: list[int] = []

    def submit(self, act: str) -> int:
        """Submit a call, for which there must be room, and return its ticket."""
        self.submitted += 1
        self.out.add(self.submitted)
        self.pool.submit(self.submitted, _Call(str(self._folder), self.submitted, act))
        return self.submitted

    def begin(self, act: str) -> int:
        """Submit a call, once there is room, and return its ticket when a worker has begun it."""
        self.until(lambda: self.pool.room() > 0, "room() must be more than 0 where nothing is in flight")
        ticket = self.submit(act)
        self.until(lambda: bool(self._files(ticket)), "a call that was submitted must be executed")
        if act == "stay":
            self.stuck.append(self.process_of(ticket))
        return ticket

    def until(self, reached: Callable[[], bool], promise: str) -> None:
        """Take what comes back until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, promise
            self.pool.grow()
            for done in self.pool.wait(0.05):
                self._take(done)
            unknown = set(self.pool.running()) - self.out
            assert not unknown, f"running() must tell tickets of calls that have not come back: {unknown}"

    def _take(self, done: Done) -> None:
        assert done.ticket in self.out, f"wait() must return each submitted call once: {done}"
        self.out.remove(done.ticket)
        if isinstance(done.result, Lost):
            self.lost.add(done.ticket)
            return
        receipt = done.result[0] if isinstance(done.result, list) and len(done.result) == 1 else None
        told = isinstance(receipt, Receipt) and (receipt.shard, receipt.rows_in)
        assert told == (str(done.ticket), done.ticket), f"wait() must return what the call itself has answered: {done}"
        assert len(self._files(done.ticket)) == 1, f"each call must be executed once: {self._files(done.ticket)}"

    def process_of(self, ticket: int) -> int:
        """The process that has executed a call."""
        return int(self._files(ticket)[0].split("-")[1])

    def _files(self, ticket: int) -> list[str]:
        return [file.name for file in self._folder.glob(f"{ticket}-*")]

    def check_ended(self, by: str) -> None:
        """Processes that were stuck have been ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while running := [process for process in self.stuck if _runs(process)]:
            assert time.monotonic() < deadline, f"{by} must end a worker whatever it is at: {running} still run"
            time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and this system tells no more
        return Path("/proc/self/stat").exists() is False
