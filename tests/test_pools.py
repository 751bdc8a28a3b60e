"""What the pools do when Ray's memory monitor takes a worker; the kill itself is imitated."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from runner.modes import actors, tasks
from runner.modes.session import Starvation
from runner.types import Fit, Lost, Resources

OUT_OF_MEMORY = Lost("killed by the memory monitor", memory=True)
DIED = Lost("died")


@pytest.fixture
def _all_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(Starvation, "check", lambda *_, **__: None)


def task_pool(flying: int) -> tasks.TaskPool:
    model: Any = None
    pool = tasks.TaskPool(None, model, Fit(4, ""), 8, Starvation(Resources()))
    pool.flying = {ticket: f"reference {ticket}" for ticket in range(flying)}
    return pool


@pytest.mark.usefixtures("_all_ready")
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


@pytest.mark.usefixtures("_all_ready")
@pytest.mark.parametrize(("result", "size", "left"), [(DIED, 3, 3), (OUT_OF_MEMORY, 3, 2), (OUT_OF_MEMORY, 1, 1)])
def test_an_actor_that_took_too_much_is_not_replaced_unless_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, result: Lost, size: int, left: int
) -> None:
    monkeypatch.setattr(actors, "result_of", lambda _: result)
    pool = actors.ActorPool.__new__(actors.ActorPool)
    pool._returned, pool._starvation = [], Starvation(Resources())
    pool._members = [actors._Member(f"actor {i}", f"birth {i}", up=True) for i in range(size)]
    monkeypatch.setattr(pool, "_create", lambda: actors._Member("new", "birth"))
    pool._members[0].calls = deque([(1, "head"), (2, "queued")])
    done = pool.wait(0)
    assert [(each.ticket, isinstance(each.result, Lost) and each.result.counted) for each in done] == [
        (1, True),
        (2, False),
    ]
    assert pool.workers() == left
