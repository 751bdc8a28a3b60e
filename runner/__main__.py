"""`python -m runner`."""

from __future__ import annotations

import sys

from runner.process import program


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; help and version need no config, no Hydra and nothing heavy."""
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        from runner.config.help import text

        print(text(argv))
        return 0
    if "--version" in argv:
        from runner.config.help import version

        print(version())
        return 0
    try:
        from runner.cli import execute

        return execute(argv)
    except KeyboardInterrupt:
        print("interrupted before anything was run", file=sys.stderr)
        return 130


if __name__ == "__main__":
    program.begin()
    program.end(main())
