"""The dispatcher against a pool that is told what to answer, with a clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.driver.dispatch import (
    LONGEST_WAIT_SECONDS,
    UNBLAMED_WAIT_SECONDS,
    Attempt,
    Committed,
    Dispatcher,
    Event,
    Pace,
    Retried,
    call_size,
    next_attempt,
)
from runner.storage.transience import LONGEST_BACKOFF_SECONDS, backoff
from runner.types import (
    Done,
    Errors,
    Failure,
    FailureKind,
    Fragment,
    Input,
    Lost,
    Model,
    Outcome,
    Receipt,
    Shard,
    Stages,
    Work,
)
from runner.worker.care import Care

MIB = 1024**2


def shard(number: int, size: int = 100 * MIB) -> Shard:
    return Shard(number, f"{number:016x}", "", (Fragment(Input(f"/in/{number}", size, "v"), size, 10),))


def receipt(of: Shard, seconds: float) -> Receipt:
    return Receipt(of.id, 10, 10, 0, 100, "sha256:0", Stages(predict=seconds), "here:1")


@dataclass(frozen=True)
class Asked:
    """Work that only carries its shards to the fake pool."""

    shards: tuple[Shard, ...]
    care: Care

    def run(self, model: Model) -> list[Outcome]:
        raise NotImplementedError


@dataclass
class FakePool:
    """Answers each call by a script: what becomes of a shard at its first, second, ... call."""

    script: dict[str, list[str]]
    places: int = 2
    now: float = 0.0
    slow: bool = False
    seconds: float = 1.0
    queue: list[tuple[int, Asked]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)
    asked_to_grow: int = 0
    asked_for_room: int = 0
    asked_what_runs: int = 0

    def room(self) -> int:
        self.asked_for_room += 1
        return self.places - len(self.queue)

    def grow(self) -> None:
        self.asked_to_grow += 1

    def submit(self, ticket: int, work: Work) -> None:
        assert isinstance(work, Asked)
        assert len(self.queue) < self.places, "the dispatcher overfilled the pool"
        self.queue.append((ticket, work))
        self.sizes.append(len(work.shards))

    def wait(self, timeout: float) -> list[Done]:
        self.now += timeout
        if self.slow or not self.queue:
            return []
        ticket, work = self.queue.pop(0)
        return [Done(ticket, self._answer(work.shards))]

    def _answer(self, shards: Iterable[Shard]) -> list[Outcome] | Lost:
        words = {each.id: self._word(each) for each in shards}
        if "lost" in words.values():
            return Lost("worker died")
        if "queued" in words.values():
            return Lost("its actor died", counted=False)
        return [self._outcome(each, words[each.id]) for each in shards]

    def _word(self, of: Shard) -> str:
        answers = self.script.get(of.id, [])
        word = answers[self.seen[of.id]] if self.seen[of.id] < len(answers) else "ok"
        self.seen[of.id] += 1
        return word

    def _outcome(self, of: Shard, word: str) -> Outcome:
        kinds: dict[str, FailureKind] = {
            "transient": "transient",
            "data": "data",
            "model": "model",
            "storage": "storage",
        }
        return Failure(of.id, kinds[word], word) if word in kinds else receipt(of, self.seconds)

    def running(self) -> list[int]:
        self.asked_what_runs += 1
        return [ticket for ticket, _ in self.queue[:1]]

    def abandon(self, ticket: int) -> None:
        self.abandoned.append(ticket)
        self.queue = [each for each in self.queue if each[0] != ticket]
        self.slow = False

    def workers(self) -> int:
        return self.places

    def close(self) -> None:
        self.queue = []


def dispatched(
    pool: FakePool, shards: list[Shard], policy: Errors, stop: Callable[[], bool] = lambda: False
) -> list[Event]:
    return list(Dispatcher(pool, Asked, policy, stop=stop, now=lambda: pool.now).run(shards))


def committed(events: list[Event]) -> list[str]:
    """The ids of the shards, each with a receipt of its own."""
    told = [event for event in events if isinstance(event, Committed)]
    assert all(event.shard.id == event.receipt.shard for event in told)
    return sorted(event.shard.id for event in told)


def failed(events: list[Event]) -> list[Failure]:
    return [event for event in events if isinstance(event, Failure)]


def test_every_shard_is_committed_once() -> None:
    shards = [shard(i) for i in range(7)]
    assert committed(dispatched(FakePool({}), shards, Errors())) == [each.id for each in shards]


@pytest.mark.parametrize(("shards", "wanted"), [(2, False), (3, True)])
def test_a_pool_is_told_while_work_waits_that_it_has_no_room_for(shards: int, wanted: bool) -> None:
    pool = FakePool({}, places=2)
    dispatched(pool, [shard(i) for i in range(shards)], Errors())
    assert (pool.asked_to_grow > 0) is wanted


def test_transient_failures_are_tried_again_within_the_budget() -> None:
    one = shard(1)
    pool = FakePool({one.id: ["transient"] * 3})
    events = dispatched(pool, [one], Errors(max_retries=3))
    assert committed(events) == [one.id]
    assert pool.seen[one.id] == 4
    assert len([event for event in events if isinstance(event, Retried)]) == 3
    assert pool.now >= backoff(0, 0) + backoff(1, 0) + backoff(2, 0), "it did not wait between tries"


def test_transient_failures_beyond_the_budget_fail_and_name_the_key() -> None:
    one = shard(1)
    pool = FakePool({one.id: ["transient"] * 9})
    [failure] = failed(dispatched(pool, [one], Errors(max_retries=2)))
    assert pool.seen[one.id] == 3
    assert "given up after 2 more tries: errors.max_retries=2" in failure.message


@pytest.mark.parametrize("kind", ["data", "storage"])
def test_failures_that_would_repeat_are_not_tried_again(kind: str) -> None:
    one = shard(1)
    pool = FakePool({one.id: [kind]})
    [failure] = failed(dispatched(pool, [one], Errors()))
    assert failure.kind == kind
    assert pool.seen[one.id] == 1


def test_lost_workers_have_a_budget_of_their_own() -> None:
    one = shard(1)
    pool = FakePool({one.id: ["transient", "lost", "transient", "lost"]})
    assert committed(dispatched(pool, [one], Errors(max_retries=2, max_lost_workers=2))) == [one.id]
    [failure] = failed(dispatched(FakePool({one.id: ["lost"] * 3}), [one], Errors(max_lost_workers=2)))
    assert failure.kind == "lost"
    assert "errors.max_lost_workers=2" in failure.message


def test_calls_that_were_only_queued_on_a_dead_worker_are_not_counted() -> None:
    one = shard(1)
    pool = FakePool({one.id: ["queued"] * 20})
    assert committed(dispatched(pool, [one], Errors(max_lost_workers=0))) == [one.id]
    assert pool.now >= 20 * UNBLAMED_WAIT_SECONDS, "an actor that cannot be reached was asked in a loop"


def test_shards_of_a_lost_call_are_tried_alone() -> None:
    shards = [shard(i) for i in range(64)]
    pool = FakePool({shards[1].id: ["lost"]}, places=1, seconds=0)
    assert len(committed(dispatched(pool, shards, Errors()))) == 64
    lost = pool.sizes[1]
    assert lost > 1
    assert pool.sizes.count(1) > lost, "the shards of the lost call shared a call again"


def test_stops_submitting_after_enough_failed_shards() -> None:
    shards = [shard(i) for i in range(50)]
    pool = FakePool({shards[0].id: ["data"], shards[3].id: ["data"]}, places=1)
    events = dispatched(pool, shards, Errors(stop_after_failed_shards=2))
    assert len(failed(events)) == 2
    assert len(committed(events)) == 2


def test_a_model_that_fails_stops_at_once_whatever_the_budget() -> None:
    shards = [shard(i) for i in range(50)]
    events = dispatched(FakePool({shards[0].id: ["model"]}, places=1), shards, Errors(stop_after_failed_shards=10))
    assert committed(events) == []


def test_a_stop_drains_what_is_in_flight() -> None:
    shards = [shard(i) for i in range(10)]
    pool = FakePool({}, places=3)
    events = dispatched(pool, shards, Errors(), stop=lambda: pool.seen.total() >= 1)
    assert 1 <= len(committed(events)) <= 4
    assert len(committed(events)) == pool.seen.total(), "a committed shard was not reported"


def test_a_stop_gives_up_after_the_grace_period() -> None:
    pool = FakePool({}, slow=True)
    dispatched(pool, [shard(1)], Errors(grace_period=3), stop=lambda: pool.now > 1)
    assert 3 <= pool.now < 10


def test_a_stuck_call_is_given_up_and_its_shard_tried_again() -> None:
    pool = FakePool({}, slow=True)
    events = dispatched(pool, [shard(1)], Errors(shard_timeout=5))
    assert committed(events) == [shard(1).id]
    assert pool.abandoned == [1]
    [again_] = [event for event in events if isinstance(event, Retried)]
    assert "errors.shard_timeout=5 s" in again_.reason
    assert shard(1).name in again_.reason


@given(tries=st.integers(0, 60), jitter=st.floats(0, 1))
def test_backoff_grows_within_bounds(tries: int, jitter: float) -> None:
    assert 0 < backoff(tries, jitter) <= LONGEST_BACKOFF_SECONDS
    assert backoff(tries, jitter) <= backoff(tries + 1, jitter)


@given(st.integers(1, 1000), st.integers(1, 64), st.none() | st.builds(Pace, st.floats(0, 100), st.floats(0, 100)))
def test_calls_never_starve_other_workers(count: int, workers: int, pace: Pace | None) -> None:
    size = call_size([], count, workers, pace)
    assert 1 <= size <= max(1, count // (4 * workers))


def test_calls_are_filled_to_a_quarter_of_a_second() -> None:
    assert call_size([], 10_000, 2, None) == 1
    assert [call_size([], 10_000, 2, Pace(each, 0)) for each in (10.0, 0.25, 0.1, 0.01, 0.0)] == [1, 1, 2, 25, 64]
    due = [
        *(Attempt(shard(i), retries=1) for i in range(3)),
        Attempt(shard(3), alone=True),
        Attempt(shard(4), retries=1),
    ]
    assert call_size(due, 10_000, 2, Pace(0, 0)) == 3
    assert call_size(due[3:], 10_000, 2, Pace(0, 0)) == 1
    assert call_size(due[4:], 10_000, 2, Pace(0, 0)) == 64, "what is tried again may share a call with what is not"


def test_calls_are_longer_where_each_begins_and_ends_with_a_wait() -> None:
    assert [call_size([], 10_000, 2, Pace(0.5, edges)) for edges in (0.0, 0.1, 0.2, 99.0)] == [1, 4, 8, 10]


def test_the_wait_of_a_call_is_that_of_its_edges() -> None:
    shards = [shard(i) for i in range(3)]
    stages = [Stages(0.15, 0.5, 0.0), Stages(0.01, 0.5, 0.0), Stages(0.01, 0.5, 0.1)]
    receipts = [replace(receipt(each, 0), stages=stage) for each, stage in zip(shards, stages, strict=True)]
    pace = Pace.of(receipts)
    assert (round(pace.shard, 3), round(pace.edges, 3)) == (0.59, 0.25)
    assert Pace(1.0, 0.0).after(Pace(2.0, 1.0)) == Pace(1.8, 0.8)


def test_a_failure_without_budget_ends() -> None:
    assert next_attempt(Attempt(shard(1)), Failure("", "transient", ""), Errors(max_retries=0), 0, 0) is None


# ---------------------------------------------------------------- many shards, many workers


class Watched(Sequence[Attempt]):
    """A million tries that are due, of which somebody looks at some."""

    def __init__(self) -> None:
        self.looked_at = 0

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: Any) -> Any:
        self.looked_at += 1
        return Attempt(shard(0))


def test_the_size_of_a_call_is_found_without_looking_at_all_that_is_pending() -> None:
    due = Watched()
    assert call_size(due, len(due), 8000, Pace(1e-3, 0)) == 31
    assert due.looked_at <= 64


def test_a_large_pool_is_filled_without_being_asked_for_room_each_time() -> None:
    pool = FakePool({}, places=500)
    dispatched(pool, [shard(i) for i in range(500)], Errors())
    waits = 500 + 1  # the pool answers one call at a time
    assert pool.asked_for_room <= waits


def test_what_runs_is_looked_at_now_and_then_and_not_after_each_call() -> None:
    pool = FakePool({}, places=500)
    dispatched(pool, [shard(i) for i in range(500)], Errors(shard_timeout=1000))
    assert pool.now == pytest.approx(500 * LONGEST_WAIT_SECONDS)
    pool.asked_what_runs, pool.now = 0, 0.0
    events = Dispatcher(pool, Asked, Errors(shard_timeout=1000), now=lambda: 0.0).run([shard(i) for i in range(500)])
    assert len(list(events)) == 500
    assert pool.asked_what_runs == 1, "in no time at all"


@given(st.lists(st.sampled_from(["transient", "lost", "queued", "ok"]), max_size=12), st.integers(1, 4))
def test_what_is_in_flight_is_counted(words: list[str], places: int) -> None:
    shards = [shard(i) for i in range(12)]
    pool = FakePool({each.id: [word] for each, word in zip(shards, words, strict=False)}, places=places)
    dispatcher = Dispatcher(pool, Asked, Errors(max_lost_workers=9), now=lambda: pool.now)
    for _ in dispatcher.run(shards):
        assert dispatcher.in_flight == sum(len(work.shards) for _, work in pool.queue)
    assert dispatcher.in_flight == 0


WORDS = st.lists(st.sampled_from(["transient", "lost", "queued", "ok"]), max_size=4)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(1, 5), st.booleans())
def test_under_any_schedule_within_budget_each_shard_is_committed_once(
    script: list[list[str]], places: int, small: bool
) -> None:
    shards = [shard(i) for i in range(len(script))]
    words = {each.id: words for each, words in zip(shards, script, strict=True)}
    pool = FakePool(words, places=places, seconds=0 if small else 1)
    events = dispatched(pool, shards, Errors(max_retries=99, max_lost_workers=99))
    assert committed(events) == [each.id for each in shards]
    assert failed(events) == []


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["transient", "lost", "data"]), max_size=6), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_under_any_schedule_every_shard_is_accounted_for(script: list[list[str]], places: int) -> None:
    shards = [shard(i) for i in range(len(script))]
    pool = FakePool({each.id: words for each, words in zip(shards, script, strict=True)}, places=places)
    events = dispatched(pool, shards, Errors(max_retries=1, max_lost_workers=1, stop_after_failed_shards=999))
    told = [*committed(events), *(failure.shard for failure in failed(events))]
    assert sorted(told) == [each.id for each in shards]
