"""What every mode promises, the built-in ones and one of somebody else; and that the check finds what is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from foreign.threads import Threads, ThreadsPool

from runner.modes.actors import Actors
from runner.modes.inline import Inline
from runner.modes.processes import Processes
from runner.modes.tasks import Tasks
from runner.testing import check_mode
from runner.testing import modes as mode_checks
from runner.types import Done, Mode, ModelSource, Pool, Resources, Setup, Work

QUARTER = Resources(num_cpus=0.25)


@pytest.mark.parametrize("mode", [Inline(), Processes(2), Threads(3)], ids=lambda mode: type(mode).__name__)
def test_a_mode_without_ray(mode: Mode) -> None:
    check_mode(mode)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "mode", [Tasks(), Tasks(2), Actors(2), Actors(max_size=3)], ids=["tasks", "two tasks", "actors", "growing actors"]
)
def test_a_mode_with_ray(mode: Mode) -> None:
    check_mode(mode, QUARTER)


# ---------------------------------------------------------------- what is broken is told


@dataclass(frozen=True)
class Broken(Threads):
    """Opens a pool that breaks a promise."""

    pool: Any = None
    keys: tuple[str, ...] = ()

    def ignored(self) -> tuple[str, ...]:
        return self.keys

    def open(self, model: ModelSource, setup: Setup) -> Pool:
        good = super().open(model, setup)
        assert isinstance(good, ThreadsPool)
        return self.pool(good.model, good.size, good.threads) if self.pool else good


class Forgetful(ThreadsPool):
    """Returns no call but the first few."""

    def wait(self, timeout: float) -> list[Done]:
        return [done for done in super().wait(timeout) if done.ticket < 9]


class Doubling(ThreadsPool):
    """Executes each call twice."""

    def submit(self, ticket: int, work: Work) -> None:
        work.run(self.model)
        super().submit(ticket, work)


class Repeating(ThreadsPool):
    """Returns each call twice."""

    def wait(self, timeout: float) -> list[Done]:
        return 2 * super().wait(timeout)


class Boundless(ThreadsPool):
    """Always has room."""

    def room(self) -> int:
        return 1


class Inventive(ThreadsPool):
    """Tells of calls that nobody has submitted."""

    def running(self) -> list[int]:
        return [-1]


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (Forgetful, "wait() must return every call in the end"),
        (Doubling, "each call must be executed once"),
        (Repeating, "wait() must return each submitted call once"),
        (Boundless, "room() must be 0 or less once enough calls were submitted"),
        (Inventive, "running() must tell tickets of calls that have not come back"),
    ],
)
def test_a_broken_promise_of_a_pool_is_told(
    pool: type[ThreadsPool], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode_checks, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(mode_checks, "MOST_ROOM", 50)
    with pytest.raises(AssertionError) as broken:
        check_mode(Broken(pool=pool))
    assert str(broken.value).startswith(said)


def test_what_a_mode_ignores_must_be_keys() -> None:
    with pytest.raises(AssertionError, match=r"ignored\(\) must name keys of resources and errors: \['num_gpus'\]"):
        check_mode(Broken(keys=("num_gpus",)))
