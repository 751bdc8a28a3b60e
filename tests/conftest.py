"""Fixtures that every test may use: a place with a loader package, every mode, a real S3 server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from servers import S3Server, ServerMissingError, find_weed, s3_server

from runner import Report, run
from runner.driver import opening
from runner.words import secrets

settings.register_profile("patient", deadline=None)  # the other workers are busy too
settings.load_profile("patient")

MODES = ("inline", "processes", "tasks", "actors")


@pytest.fixture(autouse=True)
def _quiet_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in a folder of its own, without the caller's Ray or credentials."""
    for name in [*os.environ]:
        if name.startswith(("RAY_ADDRESS", "AWS_", "RUNNER_ALLOWED")):
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


@pytest.fixture(scope="session")
def _end_of_ray() -> Iterator[None]:
    """Nothing of Ray is left after the test run."""
    from runner.modes import session

    yield
    session.disconnect()


@pytest.fixture
def ray_session(_end_of_ray: None) -> None:
    """One private Ray for the whole test run; started again if a command that ran in this process has ended it."""
    from runner.modes import session
    from runner.types import RayOptions

    session.connect(RayOptions(), print)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode in turn; Ray starts when the first mode needs it."""
    if request.param in ("tasks", "actors"):
        request.getfixturevalue("ray_session")
    return str(request.param)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Where a folder of tests runs, one worker more than there are CPUs, as tests often wait; at most four, as each has a Ray.

    A file or a single test runs in this process.
    """
    folders = any(Path(name.partition("::")[0]).is_dir() for name in config.args)
    return min((os.cpu_count() or 1) + 1, 4) if folders else 0


Runs = Callable[..., Report]


@pytest.fixture
def executor(mode: str) -> Runs:
    """`run` with the mode of the moment: a behaviour that is tested through it is tested in every mode."""

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
