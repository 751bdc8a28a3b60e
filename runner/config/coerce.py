"""Converts one plain value to the type of its annotation, or says what was expected."""

from __future__ import annotations

import inspect
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from runner.types import AtLeast, Bytes

UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)
NOTHING = object()


class Wrong(ValueError):
    """A value that its annotation does not allow; says what was expected, and where in the value it is wrong."""

    def __init__(self, expected: str, where: str = "", value: Any = NOTHING) -> None:
        """Take what was expected, and for an element of a list or mapping its place and itself."""
        self.expected, self.where, self.value = expected, where, value
        super().__init__(f"expected {expected}")


def coerce(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it.

    Raises:
        Wrong: It cannot be; says what was expected.
    """
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(value, annotation, arguments)
    if origin in (Union, types.UnionType):
        return _union(value, annotation, arguments)
    if origin is Literal:
        return _literal(value, annotation, arguments)
    if not inspect.isclass(origin):
        return value
    if origin is not str and issubclass(origin, Sequence) and origin is not bytes:
        return _sequence(value, annotation, origin, arguments)
    if issubclass(origin, Mapping):
        return _mapping(value, annotation, arguments)
    return _plain(value, origin)


def _annotated(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    kind, *marks = arguments
    try:
        checked = coerce(parse_bytes(value) if any(isinstance(mark, Bytes) for mark in marks) else value, kind)
    except Wrong as wrong:
        raise Wrong(spelled(annotation), wrong.where, wrong.value) from wrong
    if any(isinstance(mark, AtLeast) and not checked >= mark.bound for mark in marks):  # also NaN
        raise Wrong(spelled(annotation))
    if checked == math.inf and any(isinstance(mark, AtLeast) for mark in marks):
        raise Wrong(f"{spelled(annotation)}, and finite")
    return checked


def parse_bytes(value: Any) -> Any:
    """`128MiB` as a number; a number as it is.

    Raises:
        Wrong: A text that is not a size.
    """
    if not isinstance(value, str):
        return value
    match = SIZE.fullmatch(value)
    if match is None or match[2].lower() not in UNITS:
        raise Wrong(spelled(Annotated[int, Bytes()]))
    return int(Fraction(match[1]) * UNITS[match[2].lower()])


def _union(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    """What the first alternative makes of it that takes it as it is, else the first that takes it at all."""
    if value is None and type(None) in arguments:
        return None
    taken, wrongs = [], []
    for each in (argument for argument in arguments if argument is not type(None)):
        try:
            taken.append(coerce(value, each))
        except Wrong as wrong:
            wrongs.append(wrong)
    if taken:
        return next((one for one in taken if type(one) is type(value) and one == value), taken[0])
    inner = next((wrong for wrong in wrongs if wrong.where), None)  # it has the right shape, an element does not
    raise inner or Wrong(f"{spelled(annotation)}{_close(value, annotation)}")


def _literal(value: Any, annotation: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed or (isinstance(value, bool) and not any(value is each for each in allowed)):
        raise Wrong(f"{spelled(annotation)}{_close(value, annotation)}")
    return value


def _close(value: Any, annotation: Any) -> str:
    close = get_close_matches(value, _words(annotation), 1, 0.6) if isinstance(value, str) else []
    return f" (did you mean {close[0]}?)" if close else ""


def _words(annotation: Any) -> list[str]:
    """The literal words that an annotation allows."""
    if typing.get_origin(annotation) is Literal:
        return [str(each) for each in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return [word for each in typing.get_args(annotation) for word in _words(each)]
    return []


def _sequence(value: Any, annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        raise Wrong(f"{spelled(annotation)}, e.g. [{value}]" if isinstance(value, str | int) else spelled(annotation))
    if origin is not tuple:
        return [_element(each, f"[{i}]", arguments[0] if arguments else Any) for i, each in enumerate(value)]
    kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments or [Any] * len(value))
    if len(kinds) != len(value):
        raise Wrong(f"a list of {len(kinds)}")
    return tuple(_element(each, f"[{i}]", kind) for i, (each, kind) in enumerate(zip(value, kinds, strict=True)))


def _mapping(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise Wrong(f"{spelled(annotation)}, e.g. {{name: value}}")
    kind = arguments[1] if arguments else Any
    return {str(name): _element(each, f".{name}", kind) for name, each in value.items()}


def _element(value: Any, where: str, annotation: Any) -> Any:
    try:
        return coerce(value, annotation)
    except Wrong as wrong:
        raise Wrong(wrong.expected, where + wrong.where, value if wrong.value is NOTHING else wrong.value) from wrong


def _plain(value: Any, kind: Any) -> Any:
    exact = not isinstance(value, bool)
    if kind is float and isinstance(value, int) and exact:
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is a float in YAML
    if kind is str and isinstance(value, os.PathLike | int) and exact:
        return str(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in (int, float, str, bool, Path) and (not isinstance(value, kind) or (kind is int and not exact)):
        raise Wrong(spelled(kind))
    return value


# ---------------------------------------------------------------- annotations in words

WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
}


def spelled(annotation: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin is Annotated:
        return _spelled_number(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _or([spelled(each) for each in arguments])
    if origin is Literal:
        return _or([str(each) for each in arguments])
    if origin in WORDS or not inspect.isclass(origin):
        return WORDS.get(origin, "a value")
    return "a mapping" if issubclass(origin, Mapping) else "a list" if issubclass(origin, Sequence) else "a value"


def _spelled_number(kind: Any, marks: tuple[Any, ...]) -> str:
    if any(isinstance(mark, Bytes) for mark in marks):
        return "a size in bytes (134217728, 128MiB, 2GB)"
    bounds = [f" >= {mark.bound:g}" for mark in marks if isinstance(mark, AtLeast)]
    return spelled(kind) + "".join(bounds)


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
