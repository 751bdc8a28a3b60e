"""Formats numbers, sizes, lists of names and errors for one line of a message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

NAMED = 3  # names that a message lists before it counts the rest
LONGEST = 200  # characters of an error's message


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 shard`, `2 shards`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(count: float) -> str:
    """Return a number of bytes with its unit: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def named(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are: `a, b, c and 7 more`."""
    found = list(names)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def range_in_words(span: Sequence[Any], noun: str) -> str:
    """Return what a half-open range of numbered pieces holds: `row groups 0 to 3`, or `rows 0 to 99` if the span itself names them."""
    *what, begin, end = span
    return f"{what[0] if what else noun + 's'} {begin} to {end - 1}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened; characters that cannot be printed are escaped."""
    said = " ".join(str(error).split("\n", 1)[0].split()).rstrip(". ") or type(error).__name__
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in said[:LONGEST])
    return f"{printable}..." if len(said) > LONGEST else printable
