"""Reads the text of a query as far as it must be known: whether it is one statement that reads, and where its placeholders are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

PIECES = re.compile(
    r"""(?P<literal>[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$)
      | (?P<gap>\s+ | --[^\n]* | /\*.*?\*/)
      | (?P<name>(?<![\w:\])"]):[A-Za-z_]\w*)
      | (?P<number>\$\d+)
      | (?P<word>\w+)
      | (?P<sign>::|.)""",
    re.DOTALL | re.VERBOSE,
)
READING = frozenset({"select", "with", "values", "table", "from"})


class Piece(NamedTuple):
    """A piece of a query.

    Attributes:
        kind: `literal` for anything in quotes, `gap` for space and comments, `name` for `:name`, `number` for `$1`, `word`, or `sign`.
        text: As it stands there.
    """

    kind: str
    text: str


def pieces(query: str) -> Iterator[Piece]:
    """Yield the pieces of a query."""
    for found in PIECES.finditer(query):
        kind = next(name for name in ("literal", "gap", "name", "number", "word", "sign") if found[name] is not None)
        yield Piece(kind, found[0])


def one_line(query: str) -> str:
    """Return a query on one line, without comments and without semicolons at its end. What stands in quotes stays as it is."""
    text = "".join(" " if piece.kind == "gap" else piece.text for piece in pieces(query))
    return re.sub(r"[\s;]+$", "", text).strip()


def problem(query: str) -> str | None:
    """Return why a query is not one statement that reads, `None` if it is, as far as its text tells."""
    line = one_line(query)
    parts = [piece for piece in pieces(line) if piece.kind != "gap"]
    first = next((piece.text.lower() for piece in parts if piece.text != "("), "")
    if any(piece == Piece("sign", ";") for piece in parts):
        return "holds more than one statement; expected one query"
    if first not in READING:
        return f"begins with {first or 'nothing'}; expected one query that reads: SELECT ... or WITH ... SELECT ..."
    depth = 0
    for piece in parts:
        depth += {"(": 1, ")": -1}.get(piece.text, 0) if piece.kind == "sign" else 0
        if depth < 0:
            return "closes a parenthesis that it did not open"
    return None


def placeholders(query: str, params: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Return what is wrong with the placeholders of a query: a value that is missing, or one that has no place."""
    if isinstance(params, Mapping):
        asked = {piece.text[1:] for piece in pieces(query) if piece.kind == "name"}
        return [
            *(f"holds :{name}, and source.params has no value for it" for name in sorted(asked - set(params))),
            *(f"has no place for source.params.{name}; expected :{name}" for name in sorted(set(params) - asked)),
        ]
    count = _positions(query)
    same = count == len(params)
    return [] if same else [f"has {count} placeholders, and source.params has {len(params)} values"]


def _positions(query: str) -> int:
    numbers = [int(piece.text[1:]) for piece in pieces(query) if piece.kind == "number"]
    return max(numbers) if numbers else sum(piece == Piece("sign", "?") for piece in pieces(query))


def bound(query: str, params: Mapping[str, Any] | Sequence[Any], place: Callable[[Any, int], str]) -> str:
    """Return a query with something in place of its placeholders.

    Args:
        query: With `:name`, or `$1`, or `?`.
        params: The values by name, or in order.
        place: Is given each value and how many there were before, in the order of the text, and returns what takes its place.
    """
    numbered = not isinstance(params, Mapping) and any(piece.kind == "number" for piece in pieces(query))
    done: list[str] = []
    count = 0
    for piece in pieces(query):
        value = _value(piece, params, numbered, count)
        if value is not None:
            done.append(place(value[0], count))
            count += 1
        else:
            done.append(piece.text)
    return "".join(done)


def _value(piece: Piece, params: Mapping[str, Any] | Sequence[Any], numbered: bool, count: int) -> tuple[Any] | None:
    """Return the value that belongs in place of a piece; `None` if the piece is no placeholder."""
    if isinstance(params, Mapping):
        return (params[piece.text[1:]],) if piece.kind == "name" else None
    if numbered:
        return (params[int(piece.text[1:]) - 1],) if piece.kind == "number" else None
    return (params[count],) if piece == Piece("sign", "?") else None
