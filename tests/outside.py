"""A folder as an ops repository has it: its own data, loader package, `models/` and config groups."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROWS = 20

LOADERS = '''
def load(alpha: float, path: str | None = None, **more: int):
    """A loader of somebody else's."""

    def predict(batch):
        return batch["a"] * alpha

    return predict


def predict(batch):
    """Not a loader."""
    return batch["a"]
'''

OWN_MODEL = '''
from ops.loaders import load as other


def load(beta: int = 3):
    """A loader below the repository's own `models/`, which uses the repository's package."""
    return other(alpha=beta)
'''

DAILY = """\
# @package _global_
# One day.   python -m runner --config-dir conf job=daily vars.date=2026-11-21
defaults:
  - override /model: ours
vars: { date: '???' }
source: { path: "days/dt=${vars.date}/" }
sink: { path: "out/dt=${vars.date}" }
"""

OURS = """
# Our model.
_target_: models.ours.load
beta: 5
"""

NIGHT = """
defaults:
  - config
  - override mode: inline
  - override model: ours
  - _self_
source: { path: days/ }
sink: { path: out }
"""


def write_data(folder: Path, rows: int = ROWS) -> None:
    """A small Parquet file with columns a, b and passenger_count."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    counts = list(range(rows))
    pq.write_table(
        pa.table({"a": [float(i) for i in counts], "b": counts, "passenger_count": counts}), folder / "x.parquet"
    )


def write_ops(root: Path) -> None:
    """All of the repository."""
    files = {
        "ops/__init__.py": "",
        "ops/loaders.py": LOADERS,
        "ops/needy.py": "import not_installed_anywhere\n",
        "ops/broken.py": "def load(:\n",
        "ops/raising.py": 'raise RuntimeError("no licence")\n',
        "models/ours.py": OWN_MODEL,
        "conf/job/daily.yaml": DAILY,
        "conf/job/eager.yaml": "# @package _global_\nbatch_size: 7\n",
        "conf/model/ours.yaml": OURS,
        "conf/night.yaml": NIGHT,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    write_data(root / "days" / "dt=2026-11-21")
    write_data(root / "days" / "dt=2026-11-22")


def runner(
    argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m runner` as a process of its own."""
    import os

    command = [*before, sys.executable, "-m", "runner", *argv]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=240
    )


def without_privileges() -> list[str]:
    """What a command begins with that permissions are to mean something to: root gives up being above them."""
    import os
    import shutil

    import pytest

    if os.getuid() != 0:
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("root may read and write everywhere, and there is no setpriv to prevent it")
    return [setpriv, "--inh-caps=-all", "--bounding-set=-all"]


def predictions(sink: Path) -> list[float]:
    """The one predicted column, in input order."""
    import pyarrow.parquet as pq

    parts = sorted(sink.glob("**/part-*.parquet"))
    return [
        value for part in parts if "_runner" not in part.parts for value in pq.read_table(part).column(0).to_pylist()
    ]


def shared(file: Path) -> dict[str, Any]:
    """What a config file gives, with that of the file which it shares with others (`defaults: [_files]`)."""
    content = yaml.safe_load(file.read_text()) or {}
    bases = [
        base for base in content.pop("defaults", []) if str(base).startswith("_") and base not in ("_self_", "_open")
    ]
    return {
        **{key: value for base in bases for key, value in shared(file.with_name(f"{base}.yaml")).items()},
        **content,
    }
