"""From a dotted path to what it names, within what the environment allows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runner.__main__ import main
from runner.targets import ALLOWED, Refused, code_of, locate, refused_by_hydra, state_of


@pytest.mark.parametrize(
    ("allowed", "target"),
    [
        ("", "shutil.copytree"),
        ("ops", "models.taxi.load"),
        ("shutil", "shutil.copytree"),
        ("shutil.copytree, other.", "shutil.copytree"),
        ("ops", "runner.sinks.files.Files"),
    ],
)
def test_allowed(allowed: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, allowed)
    assert callable(locate(target))


@pytest.mark.parametrize(
    ("allowed", "target", "told"),
    [
        ("shut", "shutil.copytree", "is not allowed here; RUNNER_ALLOWED_TARGETS=shut"),
        ("ops", "opsevil.load", "is not allowed here; RUNNER_ALLOWED_TARGETS=ops"),
        ("ops", "runner.storage.Store", "is not allowed here; RUNNER_ALLOWED_TARGETS=ops"),
        (
            "ops",
            "models.taxi.load.__class__",
            "is really builtins.function, which is not allowed here; RUNNER_ALLOWED_TARGETS=ops",
        ),
        (
            "ops",
            "models.torch.os.system",
            "is really posix.system, which is not allowed here; RUNNER_ALLOWED_TARGETS=ops",
        ),
    ],
)
def test_not_allowed(allowed: str, target: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, allowed)
    with pytest.raises(Refused) as refused:
        locate(target)
    assert str(refused.value).startswith(told)


def test_what_is_not_allowed_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(ALLOWED, "ops")
    with pytest.raises(Refused):
        locate("evil.load")
    assert not (tmp_path / "ran").exists()


def test_hydra_refuses_some_targets_always() -> None:
    with pytest.raises(Refused):
        locate("builtins.eval")


@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.mine._target_=os.system",
        "hydra.sweeper._target_=os.system",
        "hydra.launcher._target_=os.system",
        "+hydra.job_logging.handlers.x.class=os.system",
    ],
)
def test_a_closed_list_holds_for_hydra_too(
    override: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ALLOWED, "ops")
    assert main(["mode=inline", "action=plan", override]) == 2
    key = override.lstrip("+").partition("=")[0]
    assert capsys.readouterr().err == f"error: {key}=os.system: is not allowed here; RUNNER_ALLOWED_TARGETS=ops\n"


def test_hydras_own_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOWED, "ops")
    assert main(["mode=inline", "action=plan"]) == 0
    assert main(["mode=inline", "action=plan", "hydra/job_logging=default", "hydra/hydra_logging=default"]) == 0


def test_an_open_list_refuses_nothing() -> None:
    assert refused_by_hydra({"callbacks": {"x": {"_target_": "os.system"}}}) == []


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda batch: batch * factor


class Model:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, batch: Any) -> Any:
        return batch * self.weight


def times(batch: Any, factor: float) -> Any:
    return batch * factor


@pytest.mark.parametrize(
    "make", [scaled, Model, lambda factor: Model(factor).__call__, lambda factor: partial(times, factor=factor)]
)
def test_the_state_of_a_predictor_counts(make: Callable[[float], Callable[[Any], Any]]) -> None:
    assert state_of(make(1.0)) == state_of(make(1.0))
    assert state_of(make(1.0)) != state_of(make(2.0))


def test_the_code_of_a_loader_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "codeful.py").write_text("def load():\n    return 1\n")
    found = code_of(locate("codeful.load"))
    assert found == code_of(locate("codeful.load"))
    (tmp_path / "codeful.py").write_text("def load():\n    return 2\n")
    assert found != code_of(locate("codeful.load"))


HOLDING: list[Callable[[float], Any]] = [
    lambda factor: [lambda batch: batch["a"] * 2, lambda batch: batch["a"] * 3][int(factor)],
    lambda factor: [lambda batch: batch["a"], lambda batch: batch["b"]][int(factor)],
    lambda factor: [lambda b: [x * 2 for x in b], lambda b: [x * 3 for x in b]][int(factor)],
    lambda factor: [lambda b: b in {"x", "y"}, lambda b: b in {"x", "z"}][int(factor)],
    lambda factor: partial(lambda batch, by: batch * by, by=factor),
    lambda factor: Holder(lambda batch: batch * factor),
    lambda factor: Holder(lambda batch: batch * factor).__call__,
    lambda factor: Holder({"one": [lambda batch: batch * factor]}),
]


class Holder:
    def __init__(self, held: Any) -> None:
        self.held, self.itself = held, self

    def __call__(self, batch: Any) -> Any:
        return self.held(batch)


@pytest.mark.parametrize("make", HOLDING, ids=range(len(HOLDING)))
def test_functions_of_one_file_differ_by_their_code(make: Callable[[float], Any]) -> None:
    assert state_of(make(0)) == state_of(make(0))
    assert state_of(make(0)) != state_of(make(1))


def test_the_state_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "stateful.py").write_text(
        "factor = lambda by: lambda b: [x * by for x in b if x in {'p', 'q', 'r', None} and (lambda: x)()]\n"
        "if __name__ == '__main__':\n"
        "    from runner.targets import state_of\n"
        "    print(state_of(factor(2)))\n"
    )
    root = str(Path(__file__).parent.parent)
    told = [
        subprocess.run(
            [sys.executable, "stateful.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert len(set(told)) == 1
