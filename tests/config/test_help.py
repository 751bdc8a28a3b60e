"""`--help` says what there is, at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from outside import write_ops

from runner.__main__ import main
from runner.config import help as runner_help
from runner.config.options import CONF, options

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = sorted(f"{file.parent.name}={file.stem}" for group in CONF.iterdir() for file in options(group))
IMPORTED = (
    "import sys, runner.__main__ as m; code = m.main(sys.argv[1:]); print('IMPORTED', *sys.modules); sys.exit(code)"
)


def imported(*argv: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *argv], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, set(done.stdout.rpartition("IMPORTED ")[2].split())


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_groups_keys_and_commands(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if line.strip() in GROUPS] == GROUPS
    for key in ("action", "num_actors", "batch_size", "shard_bytes", "predict.columns", "ray.address"):
        assert any(line.startswith(f"  {key}=") and len(line.split()) > 3 for line in lines)
    assert len([line for line in lines if line.startswith("  python -m runner")]) >= 3


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_a_line(option: str) -> None:
    (line,) = [line for line in runner_help.text().splitlines() if line.split()[:1] == [option]]
    assert len(line.split()) > 2
    assert line.endswith((".", ")."))


def test_options_of_another_folder_are_listed(tmp_path: Path) -> None:
    write_ops(tmp_path)
    line = ["job=daily", "One", "day."]
    for flags in (["--config-dir", f"{tmp_path}/conf"], [f"--config-dir={tmp_path}/conf"], ["-cd", f"{tmp_path}/conf"]):
        assert line in [each.split() for each in runner_help.text(flags).splitlines()]
    assert line not in [each.split() for each in runner_help.text().splitlines()]


def test_commands_of_the_help_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    """What is there to be copied is checked as if it were typed; nothing of it is run."""
    commands = [
        line.partition("   ")[0].split()[3:]
        for line in runner_help.text().splitlines()
        if line.startswith("  python -m")
    ]
    for argv in [argv for argv in commands if "-m" not in argv and "--config-dir" not in argv]:
        assert main([*argv, "--cfg", "job"]) == 0, capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code, modules = imported("--help")
    assert code == 0
    assert not modules & {"ray", "torch", "pandas", "pyarrow", "numpy", "hydra", "omegaconf", "fsspec"}


@pytest.mark.parametrize(
    "argv", [["mode=inlin"], ["batch_size=0", "mode=actors"], ["mode=actors", "-m", "num_actors=0,2"]]
)
def test_a_wrong_config_imports_nothing_heavy(argv: list[str]) -> None:
    code, modules = imported(*argv)
    assert code == 2
    assert not modules & {"ray", "torch", "pandas", "pyarrow"}
