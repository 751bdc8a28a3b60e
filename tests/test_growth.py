"""What is done before a job runs grows with what was given, not with its square; calls are counted, since no test asserts a time."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from outside import write_data

from runner import plan
from runner.__main__ import main
from runner.config.composition import composer
from runner.config.overrides import examine
from runner.config.prepare import prepare

JOB = ("source.path=in", "mode=inline", "model=custom", "model._target_=builtins.len", "sink.path=out/${vars.date}")


def calls(do: Callable[[], object]) -> int:
    """How many functions something calls."""
    profile = cProfile.Profile()
    profile.runcall(do)
    return sum(entry.callcount for entry in profile.getstats())


def assert_linear(do: Callable[[int], object], size: int) -> None:
    """Twice as much costs twice as many calls, whatever the first one costs: what is cached is cached by then."""
    do(size)
    one, two, four = (calls(partial(do, count)) for count in (size, 2 * size, 4 * size))
    assert four - two < 2.3 * (two - one)


def dates(count: int) -> str:
    return ",".join(f"2026-{1 + i // 28:02d}-{1 + i % 28:02d}" for i in range(count))


@pytest.mark.slow
def test_checking_a_sweep_is_linear(tmp_path: Path) -> None:
    write_data(tmp_path / "in")

    def prepared(count: int) -> None:
        with composer([]) as hydra:
            prepare([*JOB, f"vars.date={dates(count)}"], hydra, multirun=True)

    assert_linear(prepared, 2)


def test_each_job_of_a_sweep_is_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "in")
    composed: list[list[str]] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, config_name: str, overrides: list[str], **more: object) -> object:
        composed.append(overrides)
        return compose(self, config_name, overrides, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert main(["-m", *JOB, "action=plan", f"vars.date={dates(5)}"]) == 0
    assert len(composed) == 1 + 5


def test_a_list_of_paths_is_linear(tmp_path: Path) -> None:
    write_data(tmp_path / "in")
    file = str(next((tmp_path / "in").rglob("*.parquet")))

    def planned(count: int) -> None:
        plan({"source.path": [file] * count, "mode": "inline", "sink.path": "out"}, model=len)

    assert_linear(planned, 50)


def test_reading_a_long_override_is_linear() -> None:
    assert_linear(
        lambda count: examine(
            [f"source.path=[{','.join(f'in/{count}-{i}' for i in range(count))}]"], list, sweep=False
        ),
        50,
    )
