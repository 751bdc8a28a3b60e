"""Ray's pools on one machine: they grow and shrink, follow the cluster, and do with less after the memory monitor took a worker."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.modes import actor_pool, actors, session, tasks
from runner.modes.actor_pool import ActorPool, Bounds, Member
from runner.modes.actors import Actors
from runner.modes.processes import Processes
from runner.modes.session import Watch
from runner.modes.tasks import Tasks
from runner.predictor.shipping import Shipper
from runner.process.signals import Signals
from runner.types import Answer, Done, Lost, Mode, Model, RayOptions, Resources, Setup, Work

OUT_OF_MEMORY = Lost("killed by the memory monitor", memory=True)
DIED = Lost("died")
ANY_WORK: Any = "work"


# ---------------------------------------------------------------- growing and shrinking, with real actors


@contextmanager
def opened(mode: Actors, told: list[str] | None = None) -> Iterator[ActorPool]:
    """Its actors ask for a quarter of this machine: four fit."""
    import ray

    say = print if told is None else told.append
    setup = Setup(Resources(num_cpus=ray.cluster_resources()["CPU"] / 4), RayOptions(), 1, None, say, Signals())
    pool = mode.open(Shipper(lambda: lambda batch: batch, on_driver=True), setup)
    assert isinstance(pool, ActorPool)
    try:
        yield pool
    finally:
        pool.close()


def until_there_is(flag: Path) -> Work:
    """Work that takes until a file appears."""

    class Waiting:  # in a function, so that it travels by value
        def run(self, model: Model) -> Answer:  # noqa: ARG002
            while not flag.exists():
                time.sleep(0.01)
            return []

    return Waiting()


def drive(pool: ActorPool, what: Callable[[], bool], *, work_waits: bool = False) -> list[int]:
    """Wait on the pool, as a dispatcher does, until something is so; the tickets of calls that have finished by then."""
    deadline, finished = time.monotonic() + 100, []
    while not what():
        assert time.monotonic() < deadline
        if work_waits:
            pool.grow()
        finished += [done.ticket for done in pool.wait(0.05)]
    return sorted(finished)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_pool_grows_while_work_waits(tmp_path: Path) -> None:
    with opened(Actors(max_size=3)) as pool:
        for size in (1, 2):
            drive(pool, lambda: pool.workers() == size)  # noqa: B023
            assert pool.room() == 1, "a newcomer is to find no queues, but work"
            pool.submit(size, until_there_is(tmp_path / "go"))
            pool.grow()
        drive(pool, lambda: pool.workers() == 3)
        assert pool.room() == 4, "at its full size, one call is queued behind each"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_pool_shrinks_when_it_is_idle(tmp_path: Path) -> None:
    with opened(Actors(min_size=2, max_size=4, idle_timeout=0.3)) as pool:
        drive(pool, lambda: pool.workers() == 4, work_waits=True)
        pool.submit(1, until_there_is(tmp_path / "go"))
        drive(pool, lambda: pool.workers() == 2)
        (tmp_path / "go").touch()
        assert drive(pool, lambda: not pool.running()) == [1], "an actor was ended that had a call"
        pool.submit(2, until_there_is(tmp_path / "go"))
        assert drive(pool, lambda: not pool.running()) == [2]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_no_more_actors_come_than_are_up_nor_than_may_be(tmp_path: Path) -> None:
    with opened(Actors(max_size=4)) as pool:
        sizes: list[int] = []
        for _ in range(3):
            pool.submit(len(sizes), until_there_is(tmp_path / "go"))
            for _ in range(5):
                pool.grow()
            sizes.append(len(pool.members))
            drive(pool, lambda: pool.workers() == len(pool.members))
        assert sizes == [2, 4, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_never_starts_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster without an autoscaler it stays pending."""
    monkeypatch.setattr(actors, "is_private", lambda: False)
    told: list[str] = []
    with opened(Actors(max_size=5, idle_timeout=0.3), told) as pool:
        drive(pool, lambda: pool.workers() == 4, work_waits=True)
        drive(pool, lambda: len(pool.members) == 5, work_waits=True)
        for ticket in range(4):
            pool.submit(ticket, until_there_is(tmp_path / "go"))
        (tmp_path / "go").touch()
        assert drive(pool, lambda: not pool.running()) == [0, 1, 2, 3]
        drive(pool, lambda: len(pool.members) == 1)
    assert told[0].startswith("mode.max_size=5: 4 fit now (CPU: ")
    assert told[0].endswith("; the others start when the cluster has room")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("mode", "bounds", "keys"),
    [
        (Actors(), (4, 4), []),
        (Actors(size=2), (2, 2), []),
        (Actors(size=9), (4, 4), ["num_actors=9"]),
        (Actors(max_size=2), (1, 2), []),
        (Actors(min_size=2), (2, 4), []),
        (Actors(min_size=5, max_size=9), (4, 4), ["mode.min_size=5", "mode.max_size=9"]),
    ],
)
def test_the_bounds_of_a_pool_on_a_private_ray(mode: Actors, bounds: Bounds, keys: list[str]) -> None:
    told: list[str] = []
    with opened(mode, told) as pool:
        assert pool.bounds == bounds
        assert pool.workers() == bounds[0]
    assert [line.partition(":")[0] for line in told] == keys
    assert all("4 fit (CPU: " in line and line.endswith("; running with 4") for line in told)


# ---------------------------------------------------------------- what is not so easily brought about is imitated


@pytest.fixture
def _all_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(ray, "kill", lambda _: None)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """What the cluster has: a node for four workers."""
    there = [{"CPU": 4.0}]
    monkeypatch.setattr(session, "nodes", lambda: there)
    monkeypatch.setattr(session, "ASK_SECONDS", 0.0)
    return there


def task_pool(flying: int) -> tasks.TaskPool:
    model: Any = None
    pool = tasks.TaskPool(None, model, "auto", Watch(Resources()))
    pool.flying = {ticket: f"reference {ticket}" for ticket in range(flying)}
    return pool


def test_tasks_follow_a_cluster_that_grows_and_shrinks(nodes: list[dict[str, float]]) -> None:
    pool = task_pool(3)
    assert (pool.room(), pool.workers(), pool.running()) == (5, 4, [0, 1, 2])
    nodes.append({"CPU": 2.0})
    assert (pool.room(), pool.workers()) == (9, 6)
    nodes[:] = [{"CPU": 2.0}]
    assert (pool.room(), pool.workers(), pool.running()) == (1, 2, [0, 1])
    nodes.clear()
    pool.flying.clear()
    assert pool.room() == 1, "with nothing queued, no autoscaler would see that something is wanted"


def test_the_cluster_is_looked_at_now_and_then_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ASK_SECONDS", 3600.0)
    looks = count(1)
    monkeypatch.setattr(session, "nodes", lambda: [{"CPU": 4.0}] * next(looks))
    pool = task_pool(0)
    assert {pool.room() for _ in range(1000)} == {8}, "each look finds another node"


@pytest.mark.usefixtures("_all_ready", "nodes")
@pytest.mark.parametrize(
    ("result", "flying", "room"), [(DIED, 1, 8), (OUT_OF_MEMORY, 1, 3), (OUT_OF_MEMORY, 3, 1), (OUT_OF_MEMORY, 9, 1)]
)
def test_fewer_tasks_run_at_once_after_one_took_too_much(
    monkeypatch: pytest.MonkeyPatch, result: Lost, flying: int, room: int
) -> None:
    monkeypatch.setattr(tasks, "result_of", lambda _: result)
    pool = task_pool(flying)
    assert [done.result for done in pool.wait(0)] == [result] * flying
    assert pool.room() == room


class Imitated:
    """Actors that take no time, and end as they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        self.results: dict[str, Any] = {}  # of what has finished, by reference
        self.killed: list[Any] = []
        self.now = 0.0
        self._names = count()
        monkeypatch.setattr(ray, "wait", self._wait)
        monkeypatch.setattr(ray, "kill", self.killed.append)
        monkeypatch.setattr(ray, "get", self.results.get)
        monkeypatch.setattr(actor_pool, "result_of", self.results.get)

    def pool(self, mode: Actors, fewest: int, most: int | None = None) -> ActorPool:
        """A pool whose first actors have come up."""
        setup = Setup(Resources(), RayOptions(), 1, None, print, Signals())
        pool = ActorPool(mode, setup, Bounds(fewest, most or fewest), self._create, lambda: self.now)
        self.come_up(pool)
        return pool

    def come_up(self, pool: ActorPool) -> None:
        """All that are coming are up."""
        for member in pool.members:
            if not member.up:
                self.ends(member.birth, None)
        assert pool.wait(0) == []

    def ends(self, reference: Any, result: Any) -> None:
        """What is awaited has finished."""
        self.results[reference] = result

    def _create(self) -> Member:
        handle = SimpleNamespace(execute=SimpleNamespace(remote=lambda *_: f"call {next(self._names)}"))
        return Member(handle, f"birth {next(self._names)}")

    def _wait(self, references: list[str], num_returns: int, **_: Any) -> tuple[list[str], list[str]]:
        ready = [reference for reference in references if reference in self.results][:num_returns]
        return ready, [reference for reference in references if reference not in ready]


@given(st.lists(st.sampled_from(["submit", "answer", "die", "memory", "grow", "come up", "abandon"]), max_size=60))
@settings(deadline=None)
def test_whatever_happens_the_shortest_queue_is_found_and_every_call_comes_back_once(events: list[str]) -> None:
    results = {"answer": [], "die": DIED, "memory": OUT_OF_MEMORY}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "nodes", lambda: [{"CPU": 4.0}])
        imitated = Imitated(patched)
        pool = imitated.pool(Actors(max_tasks_in_flight_per_actor=3), 2, 5)
        out: set[int] = set()
        for ticket, event in enumerate(events):
            up = [member for member in pool.members if member.up]
            busy = [member for member in up if member.calls]
            if event == "submit" and up:
                shortest = min(len(member.calls) for member in up)
                pool.submit(ticket, ANY_WORK)
                [taken] = [each for each in up if each.calls and each.calls[-1][0] == ticket]
                assert len(taken.calls) == shortest + 1
                out.add(ticket)
            elif event in results and busy:
                imitated.ends(busy[-1].calls[0][1], results[event])
                out -= {done.ticket for done in pool.wait(0)}
            elif event == "abandon" and busy:
                out -= {busy[0].calls[0][0], *(done.ticket for done in _abandoned(pool, busy[0].calls[0][0]))}
            elif event == "grow":
                pool.grow()
            elif event == "come up":
                imitated.come_up(pool)
            members = pool.members
            deep = 1 if len(members) < pool.bounds.most else 3
            calls = [len(member.calls) for member in members if member.up]
            assert pool.room() == sum(max(0, deep - each) for each in calls)
            assert len(pool.running()) == sum(map(bool, calls))
            assert out == {queued for member in members for queued, _ in member.calls}
            assert len(members) <= pool.bounds.most


def _abandoned(pool: ActorPool, ticket: int) -> list[Done]:
    pool.abandon(ticket)
    return pool.wait(0)


def test_of_idle_actors_the_longest_idle_is_ended_and_the_last_idle_gets_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imitated = Imitated(monkeypatch)
    pool = imitated.pool(Actors(idle_timeout=1.0), 2, 4)
    pool.grow()
    imitated.come_up(pool)
    first, _, third = pool.members
    imitated.now, third.idle_since = 2.0, 2.0
    for ticket in range(3):  # one call after the other needs no more than one actor
        pool.submit(ticket, ANY_WORK)
        assert [member for member in pool.members if member.calls] == [third]
        imitated.ends(third.calls[0][1], [])
        pool.wait(0)
    assert imitated.killed == [first.handle]
    assert len(pool.members) == 2, "no fewer than it is to keep"


@pytest.mark.parametrize("size", [10, 1000])
def test_a_call_is_handed_out_without_looking_at_every_actor(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    imitated = Imitated(monkeypatch)
    pool = imitated.pool(Actors(), size)
    looks = 0

    class Watched(deque[Any]):
        def __len__(self) -> int:
            nonlocal looks
            looks += 1
            return super().__len__()

    for member in pool.members:
        member.calls = Watched()
    pool.submit(1, ANY_WORK)
    assert pool.room() == 2 * size - 1
    assert 0 < looks < 10


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(("result", "size", "left"), [(DIED, 3, 3), (OUT_OF_MEMORY, 3, 2), (OUT_OF_MEMORY, 1, 1)])
def test_an_actor_that_took_too_much_is_not_replaced_unless_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, result: Lost, size: int, left: int
) -> None:
    monkeypatch.setattr(actor_pool, "result_of", lambda _: result)
    imitated = Imitated(monkeypatch)
    pool = imitated.pool(Actors(), size)
    for ticket in range(1, size + 2):  # the last is queued behind another
        pool.submit(ticket, ANY_WORK)
    [first] = [member for member in pool.members if len(member.calls) == 2]
    (head, reference), (queued, _) = first.calls
    imitated.ends(reference, result)
    done = pool.wait(0)
    assert [(each.ticket, isinstance(each.result, Lost) and each.result.counted) for each in done] == [
        (head, True),
        (queued, False),
    ]
    assert pool.workers() == max(1, size - (result is OUT_OF_MEMORY))
    assert len(pool.members) == left
    pool.grow()
    assert len(pool.members) == left


# ---------------------------------------------------------------- importing ahead


@dataclass(frozen=True)
class Imported:
    """Work that tells whether a package is there already."""

    name: str

    def run(self, _: Model) -> Any:
        return [self.name in sys.modules]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("mode", "name"), [(Processes(1), "colorsys"), (Tasks(), "stringprep"), (Actors(1), "tabnanny")], ids=str
)
def test_what_will_be_needed_is_imported_before_the_first_call(mode: Mode, name: str) -> None:
    import ray

    whole = Resources(num_cpus=ray.cluster_resources()["CPU"])  # one worker at a time
    setup = Setup(whole, RayOptions(), 1, None, print, Signals(), ("no_such_package", name))
    pool = mode.open(Shipper(lambda: lambda batch: batch, on_driver=True), setup)
    try:
        pool.submit(1, Imported(name))
        done: list[Done] = []
        while not done:
            done = pool.wait(1)
        assert str(done[0].result) == "[True]"
    finally:
        pool.close()


def test_a_call_runs_once_its_process_has_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = "import pathlib, time\nwhile not pathlib.Path({!r}).exists():\n    time.sleep(0.01)\n"
    (tmp_path / "slow_to_import.py").write_text(waiting.format(str(tmp_path / "go")))
    monkeypatch.syspath_prepend(tmp_path)
    setup = Setup(Resources(), RayOptions(), 1, None, print, Signals(), ("slow_to_import",))
    pool = Processes(num_workers=1).open(Shipper(lambda: lambda batch: batch, on_driver=True), setup)
    try:
        pool.submit(1, Imported("slow_to_import"))
        assert (pool.wait(1), pool.running(), pool.room()) == ([], [], 0)
        (tmp_path / "go").touch()
        while not pool.running():
            assert pool.wait(60) == []
        assert [done.ticket for done in pool.wait(60)] == [1]
    finally:
        pool.close()


@dataclass(frozen=True)
class Unharmed:
    """Work that tells whether nothing was broken off in its process."""

    def run(self, _: Model) -> Any:
        return [not hasattr(sys, "broken_off")]


@pytest.mark.usefixtures("ray_session")
def test_a_job_that_ends_early_breaks_no_import_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    begun = tmp_path / "begun"

    def slowly(_: tuple[str, ...]) -> None:
        try:
            begun.touch()
            time.sleep(2)
        except BaseException:
            sys.broken_off = True  # type: ignore[attr-defined]  # as a native package is, for good
            raise

    setup = Setup(Resources(num_cpus=ray.cluster_resources()["CPU"]), RayOptions(), 1, None, print, Signals())
    model = Shipper(lambda: lambda batch: batch, on_driver=True)
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "import_ahead", slowly)
        pool = Tasks().open(model, setup)
    while not begun.exists():
        time.sleep(0.01)
    pool.close()
    pool = Tasks().open(model, setup)
    pool.submit(1, Unharmed())
    done: list[Done] = []
    while not done:
        done = pool.wait(1)
    assert str(done[0].result) == "[True]"
    pool.close()
