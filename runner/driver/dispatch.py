"""Which shards are in flight: it fills the workers, retries as often as is allowed, and keeps deadlines.

Knows nothing of Ray: it drives a `Pool`. Every decision is a pure function that takes `now`, tested with a fake clock.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from runner.storage.transience import backoff
from runner.types import Done, Errors, Failure, FailureKind, Lost, Outcome, Pool, Probe, Receipt, Shard, Work
from runner.worker.care import CARELESS, Care

CALL_SECONDS = 0.25  # the least work of a call, if there are shards enough
MOST_SECONDS = 5.0  # the most work of a call of several shards
EDGES_SHARE = 0.05  # of a call's time may pass before its first batch and after its last, while nothing is predicted
MOST_PER_CALL = 64  # shards
FAIR_CALLS = 4  # calls that each worker should still get
UNBLAMED_WAIT_SECONDS = (
    0.25  # before a call is repeated that never began: an unreachable actor must not be called in a loop
)
LONGEST_WAIT_SECONDS = 0.5  # for an answer, before signals and deadlines are looked at again


@dataclass(frozen=True, slots=True)
class Attempt:
    """A shard that is not committed yet: how many tries it has used up, and when the next one may begin.

    Attributes:
        retries: Tries after transient errors so far.
        lost: Tries so far whose worker died, or did not answer in time.
        not_before: When the next try may begin, in seconds of the dispatcher's clock.
        alone: Whether it must have a call of its own, because its last call was lost.
        care: How carefully it is predicted, after what happened before.
    """

    shard: Shard
    retries: int = 0
    lost: int = 0
    not_before: float = 0.0
    alone: bool = False
    care: Care = CARELESS


class Committed(NamedTuple):
    """A shard whose part is published, with the receipt of its worker."""

    shard: Shard
    receipt: Receipt


class Retried(NamedTuple):
    """A shard that will be tried again: why, and in how many seconds."""

    shard: Shard
    reason: str
    wait: float


Event = Committed | Failure | Retried | Probe


@dataclass
class Call:
    """A call in flight: the shards that one worker predicts one after the other."""

    attempts: tuple[Attempt, ...]
    running_since: float | None = None


def next_attempt(attempt: Attempt, failure: Failure, policy: Errors, now: float, jitter: float) -> Attempt | None:
    """The next try of a shard that failed; `None` if its budget is used up, or if a retry cannot help."""
    if failure.kind == "transient" and attempt.retries < policy.max_retries:
        wait = backoff(attempt.retries, jitter)
        return replace(attempt, retries=attempt.retries + 1, not_before=now + wait)
    if failure.kind in {"lost", "memory", "timeout"} and attempt.lost < policy.max_lost_workers:
        lost = attempt.lost + 1
        care = attempt.care.after_loss(lost, memory=failure.kind == "memory")
        return replace(attempt, lost=lost, not_before=now + backoff(attempt.lost, jitter), alone=True, care=care)
    return None


def exhausted(attempt: Attempt, failure: Failure) -> Failure:
    """The failure, with the number of tries in its message if it was tried again."""
    lost = (attempt.lost, "errors.max_lost_workers")
    tries = {"transient": (attempt.retries, "errors.max_retries"), "lost": lost, "memory": lost, "timeout": lost}
    if failure.kind not in tries:
        return failure
    count, key = tries[failure.kind]
    return replace(failure, message=f"{failure.message} (given up after {count} more tries: {key}={count})")


class Pace(NamedTuple):
    """How long shards take, learnt from the calls so far. Moving averages: the largest shards come first, so later ones are quicker.

    Attributes:
        shard: Seconds of a shard.
        edges: Seconds of a call in which its predictor waited for the first batch, or for the last part to be written. A storage
            far away makes them long, and only within a call are they hidden behind other shards.
    """

    shard: float
    edges: float

    @classmethod
    def of(cls, receipts: Sequence[Receipt]) -> Pace:
        """The pace of one call, from its receipts."""
        stages = [receipt.stages for receipt in receipts]
        edges = max(each.read for each in stages) + max(each.write for each in stages)
        return cls(sum(map(sum, stages)) / len(stages), edges)

    def after(self, before: Pace | None) -> Pace:
        """The moving average of this pace and the one before."""
        return self if before is None else Pace(*(0.8 * was + 0.2 * now for was, now in zip(before, self, strict=True)))

    def filling(self) -> int:
        """How many shards make a call so long that its edges, and the cost of the call itself, hardly count."""
        seconds = min(MOST_SECONDS, max(CALL_SECONDS, self.edges / EDGES_SHARE))
        return int(seconds / max(self.shard, 1e-6))


def call_size(due: Iterable[Attempt], pending: int, workers: int, pace: Pace | None) -> int:
    """How many of the first pending shards go into one call: enough to fill it, but few enough to leave work for the other workers.

    Args:
        due: Attempts that are due again; they come first.
        pending: Shards that are to be submitted, `due` included.
        workers: How many workers share them.
        pace: `None` before the first call has ended.
    """
    fair = max(1, pending // (FAIR_CALLS * max(1, workers)))
    filling = 1 if pace is None else pace.filling()
    wanted = max(1, min(fair, MOST_PER_CALL, filling))
    for count, attempt in enumerate(islice(due, wanted)):
        if attempt.alone:
            return max(1, count)
    return wanted


class Dispatcher:
    """Sends shards to a pool until each is committed or has failed.

    Attributes:
        stopped_early: Whether shards were left undone, because of failures or because the job was asked to stop.
        in_flight: Shards that were submitted and not answered yet.
        retries: Tries after transient errors so far.
        lost_workers: Workers that died so far.
    """

    def __init__(
        self,
        pool: Pool,
        work: Callable[[tuple[Shard, ...], Care], Work],
        policy: Errors,
        *,
        stop: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is submitted yet.

        Args:
            pool: The workers.
            work: Makes a call's work of its shards, and of how carefully they are predicted.
            policy: Budgets and deadlines.
            stop: Whether the job was asked to stop.
            now: Seconds of a clock that never goes back.
        """
        self.stopped_early = False
        self.in_flight = self.retries = self.lost_workers = self._failed = self._tickets = 0
        self._pool, self._work, self._policy, self._stop, self._now = pool, work, policy, stop, now
        self._untried: deque[Shard] = deque()
        self._due: deque[Attempt] = deque()  # tried before; they go before untried ones
        self._waiting: list[tuple[float, int, Attempt]] = []  # a heap by the time at which each is due
        self._calls: dict[int, Call] = {}
        self._drain_until: float | None = None
        self._next_look = 0.0
        self._jitter = random.Random()
        self._pace: Pace | None = None

    def run(self, shards: Sequence[Shard]) -> Iterator[Event]:
        """Submit the shards, and yield what becomes of each as soon as it is known. Ends when all are settled, or the job stops."""
        self._untried.extend(shards)
        while self._unfinished():
            self._submit_what_fits()
            for done in self._pool.wait(self._patience()):
                yield from self._settle(done)
            yield from self._give_up_overdue()

    # ------------------------------------------------ submitting

    @property
    def _pending(self) -> int:
        return len(self._due) + len(self._untried)

    def _unfinished(self) -> bool:
        if self._stop() and self._drain_until is None:
            self._drain_until = self._now() + self._policy.grace_period
        if self._stopping():
            self.stopped_early = self.stopped_early or bool(self._pending or self._waiting)
            expired = self._drain_until is not None and self._now() >= self._drain_until
            self.stopped_early = self.stopped_early or (expired and bool(self._calls))
            return bool(self._calls) and not expired
        return bool(self._calls or self._pending or self._waiting)

    def _stopping(self) -> bool:
        return self._drain_until is not None or self._failed >= self._policy.stop_after_failed_shards

    def _submit_what_fits(self) -> None:
        self._wake()
        if not self._pending or self._stopping():
            return
        workers, room = self._pool.workers(), self._pool.room()
        while self._pending and room > 0:
            self._submit(call_size(self._due, self._pending, workers, self._pace))
            room -= 1
        if self._pending:
            self._pool.grow()

    def _submit(self, size: int) -> None:
        attempts = tuple(self._next() for _ in range(size))
        self._tickets += 1
        self._calls[self._tickets] = Call(attempts)
        self.in_flight += size
        self._pool.submit(self._tickets, self._work(tuple(attempt.shard for attempt in attempts), attempts[0].care))

    def _next(self) -> Attempt:
        return self._due.popleft() if self._due else Attempt(self._untried.popleft())

    def _postpone(self, attempt: Attempt) -> None:
        heapq.heappush(self._waiting, (attempt.not_before, attempt.shard.sequence, attempt))

    def _wake(self) -> None:
        now = self._now()
        while self._waiting and self._waiting[0][0] <= now:
            self._due.appendleft(heapq.heappop(self._waiting)[-1])

    def _patience(self) -> float:
        next_retry = self._waiting[0][0] if self._waiting else float("inf")
        return max(0.0, min(LONGEST_WAIT_SECONDS, next_retry - self._now()))

    # ------------------------------------------------ settling

    def _settle(self, done: Done) -> Iterator[Event]:
        if done.ticket not in self._calls:  # it was given up before it answered
            return
        call = self._take(done.ticket)
        if isinstance(done.result, Lost):
            yield from self._lost(call, done.result)
        elif isinstance(done.result, Probe):
            yield done.result
        elif isinstance(done.result, Failure):
            for attempt in call.attempts:
                yield from self._failure(attempt, replace(done.result, shard=attempt.shard.id))
        else:
            yield from self._outcomes(call, done.result)

    def _take(self, ticket: int) -> Call:
        call = self._calls.pop(ticket)
        self.in_flight -= len(call.attempts)
        return call

    def _outcomes(self, call: Call, outcomes: Sequence[Outcome]) -> Iterator[Event]:
        if receipts := [outcome for outcome in outcomes if isinstance(outcome, Receipt)]:
            self._pace = Pace.of(receipts).after(self._pace)
        for attempt, outcome in zip(call.attempts, outcomes, strict=True):
            if isinstance(outcome, Receipt):
                yield Committed(attempt.shard, outcome)
            else:
                yield from self._failure(attempt, outcome)

    def _lost(self, call: Call, lost: Lost) -> Iterator[Event]:
        self.lost_workers += lost.counted
        for attempt in call.attempts:
            if lost.counted:
                kind: FailureKind = "memory" if lost.memory else "lost"
                yield from self._failure(attempt, Failure(attempt.shard.id, kind, lost.reason))
            else:
                self._postpone(replace(attempt, not_before=self._now() + UNBLAMED_WAIT_SECONDS))

    def _failure(self, attempt: Attempt, failure: Failure) -> Iterator[Event]:
        now = self._now()
        following = next_attempt(attempt, failure, self._policy, now, self._jitter.random())
        # A model that does not load fails every shard alike. Its first failure counts as all the failures that the job allows
        # (`errors.stop_after_failed_shards`), so that nothing more is submitted.
        if following is None:
            self._failed += self._policy.stop_after_failed_shards if failure.kind == "model" else 1
            yield exhausted(attempt, failure)
        else:
            self.retries += failure.kind == "transient"
            self._postpone(following)
            yield Retried(attempt.shard, failure.message, following.not_before - now)

    # ------------------------------------------------ deadlines

    def _give_up_overdue(self) -> Iterator[Event]:
        limit, now = self._policy.shard_timeout, self._now()
        if limit is None or now < self._next_look:
            return
        self._next_look = now + LONGEST_WAIT_SECONDS
        for ticket in self._pool.running():
            call = self._calls.get(ticket)
            if call is None:
                continue
            if call.running_since is None:
                call.running_since = now
            elif now - call.running_since > limit * len(call.attempts):
                yield from self._give_up(ticket, limit)

    def _give_up(self, ticket: int, limit: float) -> Iterator[Event]:
        call = self._take(ticket)
        self._pool.abandon(ticket)
        for attempt in call.attempts:
            message = f"{attempt.shard.name}: no answer within errors.shard_timeout={limit:g} s"
            yield from self._failure(attempt, Failure(attempt.shard.id, "timeout", message))
