"""`python -m runner --help`: read from the config files themselves, without importing anything heavy."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path

from runner.config.options import CONF, options

HEAD = """\
Batch prediction on Ray: a config chooses the model, the data, who executes and where predictions go.

usage: python -m runner [group=option] [key=value ...]      -m / --multirun for a sweep, --cfg job to see the config
                        [--config-dir DIR] [--config-name NAME] [--version]

try:
  python -m runner                                           the demo: 12 files of taxi rides, no network
  python -m runner mode=actors num_actors=8
  python -m runner action=plan                               what would run and what fits; runs nothing
  python -m runner -m mode=tasks,actors num_actors=1,2       a sweep
  python -m runner --config-dir ops/conf job=daily vars.date=2026-11-21

keys:"""

TAIL = """\
exit codes: 0 complete, 1 failed (a rerun would too), 2 nothing was run, 75 incomplete (rerun), 130/143 interrupted (rerun)"""


def text(argv: Sequence[str] = ()) -> str:
    """The whole help; options of a `--config-dir` are listed with ours."""
    folders = [CONF, *map(Path, _config_dirs(argv))]
    return "\n".join([HEAD, *_keys(CONF / "config.yaml"), "\ngroups:", *_groups(folders), "", TAIL])


def version() -> str:
    """What `--version` prints."""
    try:
        number = metadata.version("ray-batch-runner")
    except metadata.PackageNotFoundError:
        number = "(not installed)"
    return f"ray-batch-runner {number} (Python {platform.python_version()})"


def _config_dirs(argv: Sequence[str]) -> list[str]:
    flags = ("--config-dir", "-cd")
    joined = [
        argument.partition("=")[2] for argument in argv if argument.startswith(tuple(f"{flag}=" for flag in flags))
    ]
    return joined + [value for flag, value in pairwise(argv) if flag in flags]


def _keys(config: Path) -> Iterator[str]:
    """Keys with a comment, as the file has them."""
    body = config.read_text().partition("\naction:")
    section = ""
    for line in (body[1].lstrip("\n") + body[2]).partition("\nhydra:")[0].splitlines():
        key, _, comment = line.partition(" # ")
        name, _, value = key.partition(":")
        if not line.strip():
            continue
        if not comment:
            section = f"{name.strip()}."
            continue
        full = f"{section}{name.strip()}" if line.startswith(" ") else name
        yield f"  {f'{full}={value.strip()}':<30} {comment}"


def _groups(folders: Sequence[Path]) -> Iterator[str]:
    """Ours first, then those that only other folders have."""
    ours = sorted(path.name for path in folders[0].iterdir() if path.is_dir())
    there = sorted(path.name for folder in folders for path in folder.glob("*/") if any(path.glob("*.yaml")))
    for group in dict.fromkeys([*ours, *there]):
        yield f"  {group}"
        files = sorted(file for folder in folders for file in options(folder / group))
        yield from (f"    {group + '=' + file.stem:<28} {_headline(file)}" for file in files)


def _headline(file: Path) -> str:
    """The first comment that is no package header, without its example."""
    comments = (line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
    first = next((comment for comment in comments if not comment.startswith("@package")), "")
    return first.partition("   ")[0]
