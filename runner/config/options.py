"""The config files of the groups as they lie: which options there are, and what each says. Read without Hydra."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"  # in a wheel, in the repository
BASES = re.compile(r"^defaults: \[(_\w+)\]$", re.MULTILINE)


def options(group: Path) -> list[Path]:
    """The files of a group's folder that can be chosen; one whose name begins with `_` is what several of them share."""
    return sorted(file for file in group.glob("*.yaml") if not file.name.startswith("_"))


def text(file: Path) -> str:
    """What an option says, together with the file that it shares with others (`defaults: [_files]`)."""
    own = file.read_text()
    return "".join(file.with_name(f"{base}.yaml").read_text() for base in BASES.findall(own)) + own


def keys(file: Path) -> dict[str, str]:
    """The keys that an option gives its group, each with its value as it is written."""
    said = text(file)
    within = re.search(rf"^{file.parent.name}:\n((?: .*\n)*)", said, re.MULTILINE)
    lines = re.findall(r"^ *(\w+): *([^#\n]*)", within[1] if within else said, re.MULTILINE)
    return {name: value.strip() for name, value in lines}
