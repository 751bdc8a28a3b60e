"""Fixtures that every test may use: a place with a loader package, every mode, a real S3 server."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest
from _pytest.mark.structures import ParameterSet
from databases import KINDS, Fresh, fresh
from hdfs import Hdfs, find_jars, hdfs_server
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings
from omegaconf import DictConfig, OmegaConf
from postgres import PostgresServer, postgres_server
from servers import S3Server, ServerMissingError, find_weed, s3_server

from runner import Report, cli, run
from runner.driver import opening
from runner.words import secrets

settings.register_profile("patient", deadline=None)  # the other workers are busy too
settings.load_profile("patient")

MODES = ("inline", "processes", "tasks", "actors")
REMOTE = MODES[1:]
ONE_WORKER: Mapping[str, Mapping[str, Any]] = {"processes": {"mode.num_workers": 1}, "actors": {"num_actors": 1}}
GIB = 1024**3

in_every_mode = pytest.mark.parametrize("mode", MODES, indirect=True)  # in the loop while working too


def _each(modes: Iterable[str]) -> list[ParameterSet]:
    """The modes as parameters: those are slow that start processes for every run, and stay out of the loop while working."""
    return [pytest.param(mode, marks=[pytest.mark.slow] * (mode in ONE_WORKER)) for mode in modes]


@pytest.fixture(autouse=True)
def _quiet_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in a folder of its own, without the caller's Ray or credentials."""
    for name in [*os.environ]:
        if name.startswith(("RAY_ADDRESS", "AWS_", "PG", "RUNNER_ALLOWED")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secrets, "_learnt", set())  # a password of one test is an innocent word in another
    secrets._pattern.cache_clear()
    monkeypatch.setattr(sys, "path", [*sys.path])  # jobs add the folder beside their config folder to it


@pytest.fixture(autouse=True)
def _no_framework_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers import ahead what their job's loader imported, but not torch only because a test before this one did.

    That costs each new worker more than all else.
    """
    loaded = sys.modules.keys() - {"pandas"}  # which every loader of the tests imports
    monkeypatch.setattr(opening, "FRAMEWORKS", tuple(name for name in opening.FRAMEWORKS if name not in loaded))


@pytest.fixture(scope="session", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The demo's data is made up once per test run, and nobody's own cache is touched."""
    os.environ["RUNNER_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds before what failed is tried again."""
    for module in ("runner.driver.dispatch", "runner.storage.transience"):
        monkeypatch.setattr(f"{module}.backoff", lambda tries, jitter: 0.01)  # noqa: ARG005


@pytest.fixture(scope="session")
def _end_of_ray() -> Iterator[None]:
    """Nothing of Ray is left after the test run."""
    from runner.modes import session

    yield
    session.disconnect()


@pytest.fixture(autouse=True)
def _ray_outlives_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in the test's process would end the Ray that the next test wants, which takes seconds to start."""
    monkeypatch.setattr(cli, "_leave_ray", lambda: None)


@pytest.fixture
def ray_session(_end_of_ray: None) -> None:
    """One private Ray for the whole test run."""
    from runner.modes import session
    from runner.types import RayOptions

    session.connect(RayOptions(), print)


@pytest.fixture(params=_each(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode in turn; Ray starts when the first mode needs it."""
    if request.param in ("tasks", "actors"):
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture(params=_each(REMOTE))
def remote(request: pytest.FixtureRequest) -> str:
    """The modes with processes to lose."""
    if request.param != "processes":
        request.getfixturevalue("ray_session")
    return str(request.param)


@pytest.fixture
def much_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of all processes of this test run, one at a time takes much of the machine's memory."""
    with filelock.FileLock(tmp_path_factory.getbasetemp().parent / "much-memory.lock"):
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Under `nohup` or a supervisor, SIGHUP is ignored, and whoever is started inherits that: tests begin with the everyday behaviour."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("cov_source", None):
        _untraced(OmegaConf, "load", "create", "merge")
        _untraced(DictConfig, "__deepcopy__", "merge_with")
        _untraced(OverridesParser, "parse_overrides")


def _untraced(owner: type, *names: str) -> None:
    """Let these functions of packages that are not ours run without being traced for the coverage of ours.

    Composing configs is a large share of what the tests compute, all of it is Python, and tracing makes it take more than twice as long.
    Nothing in these functions calls our code.
    """
    for name in names:
        found = inspect.getattr_static(owner, name)
        function = found.__func__ if isinstance(found, staticmethod) else found
        quiet = _without_trace(function)
        setattr(owner, name, staticmethod(quiet) if isinstance(found, staticmethod) else quiet)


def _without_trace(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def quiet(*args: Any, **kwargs: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return quiet


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Where a folder of tests runs, two workers for each CPU, as tests often wait; at most four, as each has a Ray, and needs 2 GiB.

    A file or a single test runs in this process.
    """
    folders = any(Path(name.partition("::")[0]).is_dir() for name in config.args)
    room = psutil.virtual_memory().available // (2 * GIB)
    return max(1, min(2 * (os.cpu_count() or 1), room, 4)) if folders else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long begins first, so that nobody is left with it at the end.

    With `--dist=worksteal`, each worker of pytest-xdist begins with a stretch of the list, the first of them with the first `n // workers`
    tests, and whoever has done his takes over half of another's. The slow tests are dealt out to the beginnings of these stretches.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    items.clear()
    for left in range(getattr(config, "workerinput", {}).get("workercount", 1), 0, -1):
        long = len(slow) // left
        short = (len(slow) + len(others)) // left - long
        items += slow[:long] + others[:short]
        del slow[:long], others[:short]


Runs = Callable[..., Report]


@pytest.fixture
def executor(mode: str) -> Runs:
    """`run` with the mode of the moment: a behaviour that is tested through it is tested in every mode.

    One worker does it: each process costs about a second. Where the subject is that there are several, use `crew`.
    """

    def executed(config: Mapping[str, Any], **more: Any) -> Report:
        return run({"mode": mode, **ONE_WORKER.get(mode, {}), **config}, **more)

    return executed


@pytest.fixture
def crew(mode: str) -> Runs:
    """As `executor`, with as many workers as fit."""

    def executed(config: Mapping[str, Any], **more: Any) -> Report:
        return run({"mode": mode, **config}, **more)

    return executed


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on loopback, with a bucket that may be read without credentials."""
    try:
        find_weed()
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with s3_server(tmp_path_factory.mktemp("s3"), anonymous_read=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server on loopback, which asks for a password."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres_server())
        except ServerMissingError as missing:
            pytest.skip(str(missing))
        yield server


@pytest.fixture
def postgresql(postgres: PostgresServer, tmp_path: Path) -> Iterator[Fresh]:
    """An empty database of PostgreSQL."""
    with fresh("postgresql", tmp_path, postgres) as made:
        yield made


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """An empty database of each kind in turn. The server starts when the first test needs it."""
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    with fresh(request.param, tmp_path, server) as made:
        yield made


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """A real HDFS, where `HDFS_JARS` names Hadoop's jars: nothing in CI does."""
    try:
        find_jars()
    except ServerMissingError as missing:
        pytest.skip(str(missing))
    with hdfs_server(tmp_path_factory.mktemp("hdfs")) as server:
        yield server
