"""Make the README's picture from a real run: `python docs/screenshot.py` writes docs/terminal.svg.

Runs the command on a pseudo-terminal, keeps what stands on it at the end, and lets rich draw it.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ARGUMENTS = ["mode=actors", "num_actors=8", "sink.path=predictions"]
COLUMNS = 124
TAKEN_BACK = re.compile(rb"[^\n]*\n[^\n]*\x1b\[1A")  # two lines that are drawn anew
ERASED = re.compile(rb"[^\n]*\x1b\[2K")  # what the progress bar drew and took back


def shown(arguments: list[str]) -> str:
    """What the terminal shows once the command has ended."""
    master, slave = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": "40", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "runner", *arguments]
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env={**os.environ, **size})
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 65536):
            output += chunk
    except OSError:  # the terminal's other end is closed
        pass
    process.wait()
    text = ERASED.sub(b"", TAKEN_BACK.sub(b"", output.replace(b"\r", b""))).decode()
    return re.sub(r"\x1b\[\?25[lh]", "", text)


def main() -> None:
    """Write the picture beside this file."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(f"$ python -m runner {' '.join(ARGUMENTS)}", highlight=False)
    console.print(Text.from_ansi(shown(ARGUMENTS).strip()))
    console.save_svg(str(Path(__file__).with_name("terminal.svg")), title="python -m runner")


if __name__ == "__main__":
    main()
