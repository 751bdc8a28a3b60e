"""Colour for people: what has gone wrong stands out on a terminal; nothing else, and nowhere else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

WRONG = ("error:", "failed:")
RED, PLAIN = "\033[1;31m", "\033[0m"


def wrong(line: str) -> str:
    """The word that says that something has gone wrong, at the beginning of a line."""
    return next((word for word in WRONG if line.startswith(word)), "")


def painted(line: str) -> str:
    """The line with that word in red, for stderr."""
    word = wrong(line)
    return f"{RED}{word}{PLAIN}{line.removeprefix(word)}" if word and _coloured() else line


def marked(text: str) -> Text:
    """The same for a rich console, which knows by itself whether there is colour."""
    from rich.text import Text

    shown = Text(text)
    shown.stylize("bold red", 0, len(wrong(text)))
    return shown


def _coloured() -> bool:
    """Whether stderr is a terminal and nobody has said no (https://no-color.org)."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not refused and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
