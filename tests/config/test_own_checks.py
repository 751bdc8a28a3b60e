"""A kind that somebody else wrote checks itself, and what it finds is told with all other problems, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from foreign import scaling
from outside import write_data

from runner import ConfigError, run
from runner.__main__ import main

DATA = {"source": "parquet", "source.path": "in", "mode": "inline"}
THREADS = {"mode": "custom", "mode._target_": "foreign.threads.Threads"}
SCALING = {"model": "custom", "model._target_": "foreign.scaling.load", "model.path": "scale.txt"}


@pytest.fixture(autouse=True)
def _data(tmp_path: Path) -> None:
    write_data(tmp_path / "in")


def problems(config: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        run({**DATA, **config, "batch_size": 0})
    assert not Path("outputs").exists()
    return refused.value.problems[1:]


def test_a_foreign_mode_refuses_its_own_arguments() -> None:
    assert problems({**THREADS, "mode.size": 65}) == ["mode.size=65: is more than mode.most=64"]


def test_a_problem_names_the_key_that_was_given() -> None:
    found = problems({**THREADS, "num_actors": 65, "mode.size": "${num_actors}"})
    assert found == ["num_actors=65: is more than mode.most=64"]


def test_what_a_foreign_mode_ignores_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert problems({**THREADS, "resources.num_gpus": 1}) == [
        "resources.num_gpus=1: has no effect with mode._target_=foreign.threads.Threads; take mode=tasks or mode=actors, or 0"
    ]
    ignored = ["resources.memory=1GiB", "errors.shard_timeout=5", "resources.scheduling_strategy=SPREAD"]
    given = [f"{key}={value}" for key, value in {**DATA, **THREADS}.items()]
    assert main([*given, *ignored, "sink.path=out"]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "has no effect" in line]
    assert [note.removeprefix("note: ").partition(":")[0] for note in notes] == ignored[:2]


def test_num_actors_beside_a_foreign_mode() -> None:
    (found,) = problems({**THREADS, "num_actors": 3})
    assert found.startswith("num_actors=3: has no effect with mode._target_=foreign.threads.Threads")
    assert problems({**THREADS, "num_actors": 3, "mode.size": "${num_actors}", "vars.n": 1}) == []
    assert problems({**THREADS, "num_actors": 3, "vars.n": "${num_actors}", "mode.size": "${vars.n}"}) == []


def test_a_foreign_loader_refuses_its_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "float", lambda _: pytest.fail("loaded"), raising=False)
    assert problems({**SCALING, "model.path": "scale.bin"}) == [
        "model.path=scale.bin: expected a file of one number, such as scale.txt"
    ]


def test_a_foreign_loader_knows_whether_it_is_to_load_here() -> None:
    assert problems(SCALING) == ["model.path=scale.txt: there is no such file"]
    assert problems({**SCALING, "predict.load_on": "worker"}) == []


def test_a_loaders_check_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "Path", None)
    (found,) = problems(SCALING)
    assert found.startswith("model: foreign.scaling.load_problems fails: TypeError: ")


def test_foreign_kinds_run() -> None:
    Path("scale.txt").write_text("2")
    report = run({**DATA, **THREADS, **SCALING, "sink.path": "out"})
    assert report.to_pandas()["a"].tolist() == [2.0 * i for i in range(20)]
