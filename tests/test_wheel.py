"""What a user gets from a wheel: the package, its configs and its models, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree, unpacked."""
    built, place = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(built),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place)
    return place


def executed(unpacked: Path, place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    return subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_wheel_carries_configs_and_models_and_nothing_else(unpacked: Path) -> None:
    assert {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")} == {"runner", "models"}
    ours = {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    theirs = {str(path.relative_to(unpacked / "runner/conf")) for path in (unpacked / "runner/conf").rglob("*.yaml")}
    assert ours == theirs
    assert not (unpacked / "models/__init__.py").exists()


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel_in_an_empty_folder(unpacked: Path, tmp_path: Path) -> None:
    where = executed(unpacked, tmp_path, "-c", "import runner; print(runner.__file__)")
    assert where.stdout.strip() == str(unpacked / "runner/__init__.py")
    done = executed(unpacked, tmp_path, "-m", "runner", "mode=inline")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete: 12 shards committed")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_help_works_from_a_wheel(unpacked: Path, tmp_path: Path) -> None:
    done = executed(unpacked, tmp_path, "-m", "runner", "--help")
    assert "mode=actors" in done.stdout
