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
from typing import Any

import pytest

from runner.model import ModelSource
from runner.modes import actors, session, tasks
from runner.modes.actors import ActorPool, Actors, Bounds
from runner.modes.processes import Processes
from runner.modes.session import Watch
from runner.modes.tasks import Tasks
from runner.signals import Signals
from runner.types import Answer, Done, Lost, Mode, Model, RayOptions, Resources, Setup, Work

OUT_OF_MEMORY = Lost("killed by the memory monitor", memory=True)
DIED = Lost("died")


# ---------------------------------------------------------------- growing and shrinking, with real actors


@contextmanager
def opened(mode: Actors, told: list[str] | None = None) -> Iterator[ActorPool]:
    """Its actors ask for a quarter of this machine: four fit."""
    import ray

    say = print if told is None else told.append
    setup = Setup(Resources(num_cpus=ray.cluster_resources()["CPU"] / 4), RayOptions(), 1, None, say, Signals())
    pool = mode.open(ModelSource(lambda: lambda batch: batch, on_driver=True), setup)
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


@pytest.mark.usefixtures("ray_session")
def test_no_more_actors_come_than_are_up_nor_than_may_be(tmp_path: Path) -> None:
    with opened(Actors(max_size=4)) as pool:
        sizes: list[int] = []
        for _ in range(3):
            pool.submit(len(sizes), until_there_is(tmp_path / "go"))
            for _ in range(5):
                pool.grow()
            sizes.append(len(pool._members))
            drive(pool, lambda: pool.workers() == len(pool._members))
        assert sizes == [2, 4, 4]


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_never_starts_is_in_nobodys_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster without an autoscaler it stays pending."""
    monkeypatch.setattr(actors, "is_private", lambda: False)
    told: list[str] = []
    with opened(Actors(max_size=5, idle_timeout=0.3), told) as pool:
        drive(pool, lambda: pool.workers() == 4, work_waits=True)
        drive(pool, lambda: len(pool._members) == 5, work_waits=True)
        for ticket in range(4):
            pool.submit(ticket, until_there_is(tmp_path / "go"))
        (tmp_path / "go").touch()
        assert drive(pool, lambda: not pool.running()) == [0, 1, 2, 3]
        drive(pool, lambda: len(pool._members) == 1)
    assert told[0].startswith("mode.max_size=5: 4 fit now (CPU: ")
    assert told[0].endswith("; the others start when the cluster has room")


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
        assert pool._bounds == bounds
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
    monkeypatch.setattr(session, "LOOK_SECONDS", 0.0)
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
    monkeypatch.setattr(session, "LOOK_SECONDS", 3600.0)
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


@pytest.mark.usefixtures("_all_ready", "nodes")
@pytest.mark.parametrize(("result", "size", "left"), [(DIED, 3, 3), (OUT_OF_MEMORY, 3, 2), (OUT_OF_MEMORY, 1, 1)])
def test_an_actor_that_took_too_much_is_not_replaced_unless_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, result: Lost, size: int, left: int
) -> None:
    monkeypatch.setattr(actors, "result_of", lambda _: result)
    monkeypatch.setattr(ActorPool, "_create", lambda _: actors._Member("actor", "birth"))
    pool = ActorPool(Actors(), Setup(Resources(), RayOptions(), 1, None, print, Signals()), Bounds(size, size))
    for i, member in enumerate(pool._members):
        member.birth, member.up = f"birth {i}", True
    pool._members[0].calls = deque([(1, "head"), (2, "queued")])
    done = pool.wait(0)
    assert [(each.ticket, isinstance(each.result, Lost) and each.result.counted) for each in done] == [
        (1, True),
        (2, False),
    ]
    assert pool.workers() == len(pool._members) == left
    pool.grow()
    assert len(pool._members) == left


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
    pool = mode.open(ModelSource(lambda: lambda batch: batch, on_driver=True), setup)
    try:
        pool.submit(1, Imported(name))
        done: list[Done] = []
        while not done:
            done = pool.wait(1)
        assert str(done[0].result) == "[True]"
    finally:
        pool.close()
