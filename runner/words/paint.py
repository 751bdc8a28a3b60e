"""Colours the word `error:` or `failed:` at the beginning of a line red, on terminals only."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

WRONG = ("error:", "failed:")
RED, PLAIN = "\033[1;31m", "\033[0m"


def wrong(line: str) -> str:
    """Return the word at the beginning of a line that says that something has gone wrong, `""` if there is none."""
    return next((word for word in WRONG if line.startswith(word)), "")


def painted(line: str) -> str:
    """Return the line with that word in red if stderr shows colours."""
    word = wrong(line)
    return f"{RED}{word}{PLAIN}{line.removeprefix(word)}" if word and _coloured() else line


def marked(text: str) -> Text:
    """Return the same for a rich console, which decides by itself whether to show colours."""
    from rich.text import Text

    shown = Text(text)
    shown.stylize("bold red", 0, len(wrong(text)))
    return shown


def _coloured() -> bool:
    """Return whether stderr is a terminal that shows colours, and `NO_COLOR` is not set (https://no-color.org)."""
    refused = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not refused and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
