"""An ops repository as README draws it: modules beside the config folder, and groups of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Runs
from outside import ROWS, predictions, write_data

from runner import ConfigError, run
from runner.__main__ import main

CHURN = """
def load(factor: float = 2.0):
    def predict(batch):
        import {name}_helper

        return batch["a"] * factor * {name}_helper.ONE

    return predict
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The loader's module, which no other test has: workers are shared, and keep what they have imported."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    found = f"churn_{tmp_path.name}"
    files = {
        f"ops/{found}.py": CHURN.format(name=found),
        f"ops/{found}_helper.py": "ONE = 1",
        "ops/types.py": "raise RuntimeError('hides a module of Python')",
        "ops/conf/env/prod.yaml": "# @package _global_\n# For real.\nbatch_size: 7\n",
        "ops/conf/env/small.yaml": "bucket: lake\n",
        "ops/conf/env/cloud/big.yaml": "size: 3\n",
        "ops/conf/job/nightly.yaml": "# @package _global_\ndefaults: [/env: small]\nsink: {path: 'out/${env.bucket}'}\n",
    }
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    write_data(tmp_path / "in")
    return found


def test_a_module_beside_the_config_folder_is_found_by_all_workers(name: str, executor: Runs) -> None:
    config = {"source.path": "in", "model._target_": f"{name}.load", "sink.path": "out"}
    executor(config, config_dir="ops/conf")
    assert predictions(Path("out")) == [2.0 * i for i in range(ROWS)]


def test_it_is_found_from_the_command_line(name: str) -> None:
    argv = ["--config-dir", "ops/conf", "source.path=in", "mode=inline", f"model._target_={name}.load", "sink.path=out"]
    assert main(argv) == 0
    assert len(predictions(Path("out"))) == ROWS


def test_where_was_looked_is_told(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--config-dir", "ops/conf", "source.path=in", f"model._target_=x{name}.load"]) == 2
    assert f"(looked in {tmp_path}, {tmp_path}/ops and the installed packages)" in capsys.readouterr().err


JOB = [
    "--config-dir",
    "ops/conf",
    "source.path=in",
    "mode=inline",
    "model=custom",
    "model._target_=builtins.len",
    "action=plan",
]


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize(
    "more",
    [
        ["env=prod", "sink.path=out"],
        ["+env=prod", "sink.path=out"],
        ["env=small", "sink.path='out/${env.bucket}'"],
        ["env=small", "env.bucket=lake", "sink.path='out/${env.bucket}'"],
        ["env/cloud=big", "sink.path='out/${env.cloud.size}'"],
        ["job=nightly", "env=small"],
        ["-m", "env=prod,small", "sink.path='out/${hydra:job.num}'"],
    ],
    ids=" ".join,
)
def test_groups_of_ones_own(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*JOB, *more]) == 0, capsys.readouterr().err
    assert "/out" in capsys.readouterr().out


@pytest.mark.usefixtures("name")
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("env=prd", "env=prd: no such option (did you mean prod?)"),
        ("evn=prod", "evn: no such key (did you mean env?)"),
        ("env.bukcet=1", "env.bukcet: no such key"),
    ],
)
def test_typos_in_them_are_told(wrong: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*JOB, *(["env=small"] if "." in wrong else []), wrong, "sink.path=out"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("name")
def test_in_python() -> None:
    config = {"source.path": "in", "mode": "inline", "env": "small", "sink.path": "out/${env.bucket}"}
    run(config, model=lambda batch: batch["a"], config_dir="ops/conf")
    assert len(predictions(Path("out/lake"))) == ROWS
    with pytest.raises(ConfigError, match=r"env=smal: no such option \(did you mean small\?\)"):
        run({**config, "env": "smal"}, model=len, config_dir="ops/conf")


@pytest.mark.usefixtures("name")
def test_help_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "--config-dir", "ops/conf"]) == 0
    assert ["env=prod", "For", "real."] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ray-batch-runner ")
