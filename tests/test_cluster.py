"""Jobs on a real cluster of several nodes, joined by its address."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from test_job import parts, predicted, write_input

TESTS = Path(__file__).parent
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class RunningCluster:
    """A cluster, and the pipes to the process that holds it."""

    address: str
    commands: IO[str]
    answers: IO[str]

    def tell(self, command: str) -> None:
        print(command, file=self.commands, flush=True)
        assert self.answers.readline().strip() == "done"


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1"}


@contextmanager
def started(*nodes: str) -> Iterator[RunningCluster]:
    """A cluster of these nodes: CPUs, and after a slash logical GPUs."""
    command = [sys.executable, str(TESTS / "cluster.py"), *nodes]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield RunningCluster(process.stdout.readline().strip(), process.stdin, process.stdout)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """Two nodes of one CPU each."""
    with started("1", "1") as running:
        yield running


def command(tmp_path: Path, address: str, *more: str) -> list[str]:
    given = ["source=parquet", f"source.path={tmp_path / 'in'}", "model=custom", "shard_bytes=null", "batch_size=10"]
    return [sys.executable, "-m", "runner", *given, f"ray.address={address}", *more]


def executed(tmp_path: Path, address: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tmp_path, address, *more),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def impatient(seconds: float) -> str:
    """The program, with less patience for a cluster to grow."""
    patience = f"import runner.modes.session as session; session.WAIT_FOR_RESOURCES = {float(seconds)}"
    return f"{patience}; from runner.__main__ import main; import sys; sys.exit(main())"


def test_a_job_joins_the_cluster_and_says_so_first(cluster: RunningCluster, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    done = executed(
        tmp_path, cluster.address, "model._target_=predictors.slow", "model.seconds=0.05", f"sink.path={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == f"ray: joining the cluster at {cluster.address} (ray.address)"
    assert predicted(tmp_path) == [2 * x for x in range(300)]


def test_a_relative_sink_on_several_nodes_is_refused(cluster: RunningCluster, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    for sink in (["sink.path=out"], []):
        done = executed(tmp_path, cluster.address, "model._target_=predictors.doubling", *sink)
        assert done.returncode == 2, done.stderr
        assert "a relative path on a cluster of 2 nodes" in done.stderr
        assert "sink.path=s3://bucket/out" in done.stderr


def test_what_never_fits_a_cluster_ends_after_a_bounded_wait(cluster: RunningCluster, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    given = command(
        tmp_path,
        cluster.address,
        "model._target_=predictors.doubling",
        f"sink.path={tmp_path}/out",
        "resources.num_cpus=5",
    )
    done = subprocess.run(
        [sys.executable, "-c", impatient(2), *given[3:]],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 75, done.stderr
    assert "no worker fits (CPU: 2 / 5 per worker, on 2 nodes, counted on each)" in done.stderr
    assert "the cluster did not grow within 2 s" in done.stderr


@pytest.mark.parametrize("mode", ["tasks", "actors"])
def test_a_node_that_dies_costs_no_row(tmp_path: Path, mode: str) -> None:
    write_input(tmp_path / "in", files=30)
    with started("1", "1") as cluster:
        given = [f"mode={mode}", "model._target_=predictors.slow", "model.seconds=0.1", f"sink.path={tmp_path}/out"]
        running = subprocess.Popen(
            command(tmp_path, cluster.address, *given),
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for_parts(tmp_path, 4, running)
        cluster.tell("kill")
        _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert predicted(tmp_path) == [2 * x for x in range(750)]
    assert (tmp_path / "out/_SUCCESS").exists()


@pytest.mark.parametrize("mode", ["tasks", "actors"])
def test_a_cluster_that_shrinks_to_nothing_ends_the_job(tmp_path: Path, mode: str) -> None:
    """And the same command finishes once there is a node again."""
    write_input(tmp_path / "in", files=30)
    with started("0", "1") as cluster:
        given = [f"mode={mode}", "model._target_=predictors.slow", "model.seconds=0.1", f"sink.path={tmp_path}/out"]
        arguments = command(tmp_path, cluster.address, *given)[3:]
        running = subprocess.Popen(
            [sys.executable, "-c", impatient(3), *arguments],
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for_parts(tmp_path, 4, running)
        cluster.tell("kill")
        _, errors = running.communicate(timeout=120)
        assert running.returncode == 75, errors
        assert "the cluster has shrunk, and no worker has fitted for 3 s (CPU: 0 / 1 per worker" in errors
        cluster.tell("add 1")
        done = executed(tmp_path, cluster.address, *given)
    assert done.returncode == 0, done.stderr
    assert predicted(tmp_path) == [2 * x for x in range(750)]


# ---------------------------------------------------------------- growing


@pytest.mark.parametrize("mode", [["mode=tasks"], ["mode=actors", "mode.max_size=3"]])
def test_a_job_takes_the_nodes_that_join_it(tmp_path: Path, mode: list[str]) -> None:
    """At first two calls fit, or one runs and the next actor is pending; with the new node three run at once."""
    write_input(tmp_path / "in", files=90)
    (tmp_path / "traces").mkdir()
    with started("1") as cluster:
        running = subprocess.Popen(
            command(tmp_path, cluster.address, *mode, *traced(tmp_path, 0.1)),
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        _wait_for_parts(tmp_path, 4, running)
        cluster.tell("add 2")
        _, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert predicted(tmp_path) == [2 * x for x in range(2250)]
    assert at_once(traces(tmp_path, "call")) == 3


def test_an_actor_that_never_starts_does_not_keep_the_job_from_ending(cluster: RunningCluster, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=12)
    given = ["model._target_=predictors.slow", "model.seconds=0.1", f"sink.path={tmp_path}/out"]
    done = executed(tmp_path, cluster.address, "mode=actors", "mode.max_size=5", *given)
    assert done.returncode == 0, done.stderr
    assert predicted(tmp_path) == [2 * x for x in range(300)]


# ---------------------------------------------------------------- placement, on three nodes with a logical GPU each


class Trace(NamedTuple):
    """What `predictors.tracing` leaves."""

    what: str
    process: str
    node: str
    gpus: str
    begin: float
    end: float


def traced(tmp_path: Path, seconds: float) -> list[str]:
    model = ["model._target_=predictors.tracing", f"model.folder={tmp_path}/traces", f"model.seconds={seconds}"]
    return [*model, "predict.load_on=worker", f"sink.path={tmp_path}/out"]


def traces(tmp_path: Path, what: str) -> list[Trace]:
    found = [path.name.split("-") for path in (tmp_path / "traces").glob(f"{what}-*")]
    return [Trace(what, process, node, gpus, float(begin), float(end)) for _, process, node, gpus, begin, end in found]


def at_once(calls: Iterable[Trace]) -> int:
    """How many overlapped, at most."""
    steps = sorted([(call.begin, 1) for call in calls] + [(call.end, -1) for call in calls])
    return max(accumulate(step for _, step in steps))


@pytest.fixture(scope="module")
def wide() -> Iterator[RunningCluster]:
    with started("4/1", "4/1", "4/1") as running:
        yield running


@pytest.fixture
def calls(wide: RunningCluster, tmp_path: Path) -> Callable[..., list[Trace]]:
    """The calls of a job that ran there."""

    def executed_there(*given: str) -> list[Trace]:
        write_input(tmp_path / "in", files=36)
        (tmp_path / "traces").mkdir()
        done = executed(tmp_path, wide.address, *traced(tmp_path, 0.1), *given)
        assert done.returncode == 0, done.stderr
        assert predicted(tmp_path) == [2 * x for x in range(900)]
        return traces(tmp_path, "call")

    return executed_there


@pytest.mark.parametrize("mode", [["mode=tasks", "mode.max_in_flight=3"], ["mode=actors", "num_actors=3"]])
def test_spread_reaches_every_node(calls: Callable[..., list[Trace]], mode: list[str]) -> None:
    """With room for all of it on one node."""
    assert len({call.node for call in calls(*mode, "resources.scheduling_strategy=SPREAD")}) == 3


@pytest.mark.parametrize("mode", ["tasks", "actors"])
def test_two_workers_share_a_gpu(calls: Callable[..., list[Trace]], tmp_path: Path, mode: str) -> None:
    made = calls(f"mode={mode}", "resources.num_gpus=0.5")
    nodes = {call.node: [each for each in made if each.node == call.node] for call in made}
    assert max(at_once(there) for there in nodes.values()) == 2
    assert {call.gpus for call in made} == {"0"}, "Ray numbers the GPUs of each node from 0"
    loads = traces(tmp_path, "load")
    assert len(loads) == len({load.process for load in loads}), "a process loaded the model more than once"
    assert len(loads) <= 12 < len(made), "processes were not used again"


def _wait_for_parts(tmp_path: Path, count: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(parts(tmp_path)) < count:
        assert running.poll() is None, "the job ended early"
        assert time.monotonic() < deadline, "no part appeared"
        time.sleep(0.05)
