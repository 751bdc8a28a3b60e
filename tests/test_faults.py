"""Failures by plan, through every mode: each row exactly once, the model called exactly as often as the plan demands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Runs
from faults import KILLERS_SECONDS, ROWS, Plan, callers, calls, expected, write_input, write_plan
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_cluster import environment
from test_job import predicted

from runner import Incomplete, JobFailed, Report, RunnerError, run

FILES = 4
RESTARTS = 20  # more than any plan here can need
STUCK_SECONDS = 8  # a new worker must be up, and at its call, within them
pytestmark = pytest.mark.usefixtures("short_waits")


def planned(tmp_path: Path, plan: Plan, /, **more: Any) -> dict[str, Any]:
    """A job over `FILES` files, one batch each, whose model follows the plan."""
    if not (tmp_path / "in").exists():
        write_input(tmp_path / "in", FILES)
    write_plan(tmp_path / "count", plan)
    return {
        "source": "parquet",
        "source.path": str(tmp_path / "in"),
        "model": "custom",
        "model._target_": "faults.faulty",
        "model.folder": str(tmp_path / "count"),
        "predict.output_schema": {"twice": "int64"},
        "sink.path": str(tmp_path / "out"),
        "batch_size": ROWS,
        "shard_bytes": None,
        **more,
    }


def once_each(tmp_path: Path) -> bool:
    return predicted(tmp_path) == [2 * x for x in range(FILES * ROWS)]


def called(tmp_path: Path) -> dict[int, int]:
    return calls(tmp_path / "count")


def but(**different: int) -> dict[int, int]:
    """One call for each file, other numbers for those named `f0`, `f1`, ..."""
    return {i: different.get(f"f{i}", 1) for i in range(FILES)}


def one_at_a_time(mode: str) -> dict[str, int]:
    """Nothing is queued behind an actor's call: the answer to a call may be lost when the next one ends the process at once."""
    return {"mode.max_tasks_in_flight_per_actor": 1} if mode == "actors" else {}


# ---------------------------------------------------------------- within the budgets


def test_failures_that_pass_cost_their_own_shard_a_call_each(crew: Runs, tmp_path: Path) -> None:
    plan = {0: ["transient", "transient"], 1: ["memory"], 2: ["slow"]}
    report = crew(planned(tmp_path, plan))
    assert once_each(tmp_path)
    assert called(tmp_path) == but(f0=3, f1=2)
    assert (report.retries, report.lost_workers, report.committed) == (2, 0, FILES)


def test_a_model_that_leaves_is_only_a_batch_that_failed(executor: Runs, tmp_path: Path) -> None:
    report = executor(planned(tmp_path, {1: ["leave"]}, errors="quarantine"))
    assert once_each(tmp_path)
    assert called(tmp_path) == but(f1=2), "the whole batch, then its first half"
    assert (report.rows_quarantined, report.lost_workers) == (0, 0)


def test_a_lost_worker_costs_its_own_shard_a_call(remote: str, tmp_path: Path) -> None:
    report = run(planned(tmp_path, {1: ["segfault"]}, mode=remote, **one_at_a_time(remote)))
    assert once_each(tmp_path)
    assert called(tmp_path) == but(f1=2)
    assert (report.lost_workers, report.retries, report.committed) == (1, 0, FILES)


@pytest.mark.slow
def test_workers_lost_all_at_once_are_all_replaced(remote: str, tmp_path: Path) -> None:
    plan = {0: ["exit"], 1: ["segfault"], 2: ["exit", "transient"], 3: ["exit", "exit"]}
    report = run(planned(tmp_path, plan, mode=remote, **one_at_a_time(remote)))
    assert once_each(tmp_path)
    assert called(tmp_path) == but(f0=2, f1=2, f2=3, f3=3)
    assert (report.lost_workers, report.retries) == (5, 1)


@pytest.mark.slow
def test_a_stuck_shard_is_named_stopped_and_tried_again(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(planned(tmp_path, {2: ["stuck"]}, mode=remote, **{"errors.shard_timeout": STUCK_SECONDS}))
    assert once_each(tmp_path)
    assert called(tmp_path)[2] == 2
    assert report.committed == FILES
    told = [line for line in capsys.readouterr().err.splitlines() if f"errors.shard_timeout={STUCK_SECONDS} s" in line]
    assert any("trying part-00000002-" in line for line in told)


# ---------------------------------------------------------------- beyond them


@pytest.mark.parametrize(
    ("outcomes", "budget", "error", "told"),
    [
        (["transient"] * 2, {"errors.max_retries": 1}, Incomplete, r"given up after 1 more tries: errors\.max_retries=1"),
        (["raise"] * 4, {}, JobFailed, r"001\.parquet row 0: ArithmeticError: planned"),
    ],
)  # fmt: skip
def test_beyond_its_budget_a_job_fails_says_so_and_continues(
    executor: Runs, tmp_path: Path, outcomes: list[str], budget: dict[str, int], error: type[RunnerError], told: str
) -> None:
    _fails_then_continues(executor, planned(tmp_path, {1: outcomes}, **budget), tmp_path, error, told, len(outcomes))


@pytest.mark.slow
def test_beyond_its_budget_of_workers_a_job_is_incomplete_and_continues(remote: str, tmp_path: Path) -> None:
    budget = {"errors.max_lost_workers": 1, **one_at_a_time(remote)}
    config = planned(tmp_path, {1: ["exit", "exit"]}, mode=remote, **budget)
    told = r"given up after 1 more tries: errors\.max_lost_workers=1"
    _fails_then_continues(run, config, tmp_path, Incomplete, told, 2)


@pytest.mark.slow
def test_a_shard_that_stays_stuck_is_given_up(tmp_path: Path) -> None:
    config = planned(
        tmp_path, {1: ["stuck"]}, mode="processes", **{"errors.shard_timeout": 5, "errors.max_lost_workers": 0}
    )
    _fails_then_continues(
        run, config, tmp_path, Incomplete, r"part-00000001-\w+: no answer within errors\.shard_timeout=5 s", 1
    )


def _fails_then_continues(
    execute: Callable[[dict[str, Any]], Report], config: dict[str, Any], tmp_path: Path, error: type[RunnerError], told: str, bad: int
) -> None:  # fmt: skip
    """The same config twice: the first time a shard uses up `bad` outcomes and fails, the second time it finds none."""
    with pytest.raises(error, match=told) as raised:
        execute(config)
    report: Report = raised.value.report
    assert report.exit_code == (75 if error is Incomplete else 1)
    assert report.status == ("incomplete" if error is Incomplete else "failed")
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert report.committed < FILES
    again = execute(config)
    assert (again.status, again.committed_before) == ("complete", report.committed)
    assert once_each(tmp_path)
    assert called(tmp_path) == but(f1=bad + 1), "what was committed is not predicted again"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inline", "processes", "tasks"])
def test_a_model_that_kills_the_driver_loses_nothing(tmp_path: Path, mode: str) -> None:
    config = planned(tmp_path, {2: ["kill driver"]})
    schema = config.pop("predict.output_schema")
    given = [f"{key}={'null' if value is None else value}" for key, value in config.items()]
    command = [
        sys.executable,
        "-m",
        "runner",
        *given,
        f"mode={mode}",
        f"predict.output_schema={{twice: {schema['twice']}}}",
    ]
    first = subprocess.run(command, env=environment(), stderr=subprocess.DEVNULL, check=False, timeout=120)
    assert first.returncode == -signal.SIGKILL
    assert _end_soon(callers(tmp_path / "count")), "a worker went on with the call that killed its driver"
    assert not (tmp_path / "out/_SUCCESS").exists()
    subprocess.run(command, env=environment(), capture_output=True, check=True, timeout=120)
    assert once_each(tmp_path)
    made = called(tmp_path)
    assert made.pop(2) == 2
    assert set(made.values()) <= {1, 2}, "only what was in flight is predicted again"


def _end_soon(pids: set[int]) -> bool:
    """Whether the processes end well before the call that they were at would have."""
    left = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(psutil.Process(pid))
    return not psutil.wait_procs(left, KILLERS_SECONDS - 5)[1]


# ---------------------------------------------------------------- actors that do not come up, or cannot be reached


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_actors_that_never_come_up_end_in_an_error(tmp_path: Path) -> None:
    import ray

    @ray.remote
    class Occupant:
        def here(self) -> bool:
            return True

    occupants = [Occupant.options(num_cpus=1).remote() for _ in range(int(ray.cluster_resources()["CPU"]))]  # type: ignore[attr-defined]
    config = planned(tmp_path, {}, mode="actors", **{"mode.ready_timeout": 1})
    try:
        ray.get([each.here.remote() for each in occupants])
        with pytest.raises(Incomplete, match=r"mode\.ready_timeout=1: no actor came up within that many seconds"):
            run(config)
    finally:
        for each in occupants:
            ray.kill(each)
    run({**config, "mode.ready_timeout": 60})
    assert called(tmp_path) == but()


@pytest.mark.usefixtures("ray_session")
def test_actors_are_replaced_so_many_times_before_the_job_gives_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.modes.actor_pool import STILLBORN

    class Stillborn:
        """Its process dies before it has answered once."""

        def ready(self, packages: tuple[str, ...]) -> None:  # noqa: ARG002
            os._exit(13)

    monkeypatch.setattr("runner.modes.actors._Predictor", Stillborn)
    with pytest.raises(Incomplete, match=f"{STILLBORN} actors in a row did not come up"):
        run(planned(tmp_path, {}, mode="actors", num_actors=1))
    assert called(tmp_path) == {}


def test_an_actor_that_cannot_be_reached_now_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from runner.modes.remote import result_of
    from runner.types import Lost

    def unreachable(_: object) -> None:
        raise ray.exceptions.ActorUnavailableError("its node does not answer", b"0" * 16)

    monkeypatch.setattr(ray, "get", unreachable)
    result = result_of(object())
    assert isinstance(result, Lost)
    assert not result.counted
    assert "its node does not answer" in result.reason


def test_a_private_ray_whose_only_node_has_died_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.modes import session
    from runner.types import Resources

    nodes = [{"CPU": 2.0}]
    monkeypatch.setattr(session, "is_private", lambda: True)
    monkeypatch.setattr(session, "nodes", lambda: nodes)
    monkeypatch.setattr(session, "ASK_SECONDS", 0.0)
    watch = session.Watch(Resources())
    watch.refresh(progressed=False)
    nodes.clear()
    watch.refresh(progressed=True)
    with pytest.raises(Incomplete, match="private Ray has died"):
        watch.refresh(progressed=False)


# ---------------------------------------------------------------- any schedule

MILD = st.sampled_from(["transient", "memory"])
ROUGH = st.sampled_from(["transient", "memory", "exit"])
QUIET = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
    phases=[Phase.generate],
)


def schedules(outcome: st.SearchStrategy[str]) -> st.SearchStrategy[dict[int, list[str]]]:
    """Outcomes for each file; a smaller batch is kept, so that a fourth halving would leave no rows."""
    plans = st.fixed_dictionaries({number: st.lists(outcome, max_size=3) for number in range(FILES)})
    return plans.filter(lambda plan: sum(outcomes.count("memory") for outcomes in plan.values()) <= 3)


@pytest.mark.slow
@settings(QUIET, max_examples=12)
@given(plan=schedules(MILD))
def test_any_schedule_inline(tmp_path: Path, plan: dict[int, list[str]]) -> None:
    _holds(tmp_path, plan, "inline")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@settings(QUIET, max_examples=3)
@given(plan=schedules(ROUGH))
def test_any_schedule_in_processes_that_die(tmp_path: Path, plan: dict[int, list[str]]) -> None:
    _holds(tmp_path, plan, "tasks")


def _holds(tmp_path: Path, plan: dict[int, list[str]], mode: str) -> None:
    """Within its budgets a job completes at once; beyond them it says so and, started again, completes in the end."""
    place = tmp_path / uuid.uuid4().hex
    config = planned(place, plan, mode=mode, **{"errors.max_retries": 1, "errors.max_lost_workers": 1})
    costs = {number: expected(outcomes) for number, outcomes in plan.items()}
    within = all(cost.retries <= 1 and cost.lost <= 1 for cost in costs.values())
    failed = _until_complete(config, place)
    assert (failed == 0) == within
    assert once_each(place)
    assert called(place) == {number: cost.calls for number, cost in costs.items()}


def _until_complete(config: dict[str, Any], place: Path) -> int:
    """Start the job until it is complete, and count in how many starts it was not."""
    told: list[str] = []
    unmarked: list[bool] = []
    for failed in range(RESTARTS):
        try:
            run(config)
        except Incomplete as error:
            told.append(str(error))
            unmarked.append(not (place / "out/_SUCCESS").exists())
        else:
            assert all("given up after 1 more tries" in each for each in told)
            assert all(unmarked)
            return failed
    pytest.fail(f"not complete after {RESTARTS} starts")
