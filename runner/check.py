"""Hold plain config values against a signature: unknown keys, missing keys, wrong types and ranges, all at once.

The signature of a component is its schema. What a value may be written as is in its annotation: `ByteSize` takes `128MiB`,
`Positive` refuses 0.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
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
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*", re.IGNORECASE)
MISSING = "???"
BROKEN = object()  # stands for a value whose problem has been told already


class Wrong(ValueError):
    """A value that its annotation does not allow; says what was expected."""


def nearest(name: str, names: Sequence[str]) -> str:
    """` (did you mean 'x'?)`, or what there is to choose from."""
    if close := get_close_matches(name, names, 1, 0.6):
        return f" (did you mean {close[0]}?)"
    return f" (there are: {', '.join(names)})" if names else ""


def bind(call: Callable[..., Any], values: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    """The keyword arguments for `call` that `values` give; what is wrong is added to `problems`, and left out.

    Args:
        call: A class or function whose annotations say what is allowed.
        values: Plain data.
        key: Where the values stand in the config, for messages.
        problems: Collects one line per problem.
    """
    parameters = {name: p for name, p in inspect.signature(call).parameters.items() if p.kind is not p.VAR_POSITIONAL}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    hints = _hints(call)
    bound: dict[str, Any] = {}
    for name, value in values.items():
        if value is BROKEN or (isinstance(value, str) and value == MISSING):
            continue
        if name in named:
            bound |= _checked(f"{key}.{name}", name, value, hints.get(name, Any), problems)
        elif open_ended:
            bound[name] = value
        else:
            problems.append(f"{key}.{name}: no such key{nearest(name, list(named))}")
    absent = [name for name, p in named.items() if p.default is p.empty and name not in values]
    unset = [name for name, value in values.items() if isinstance(value, str) and value == MISSING]
    problems += [required(f"{key}.{name}", hints.get(name, str)) for name in dict.fromkeys([*absent, *unset])]
    return bound


def required(key: str, annotation: Any = str) -> str:
    """The problem of a key that must be given."""
    return f"{key}: is required; give {key}=<{spelled(annotation)}>"


def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(call.__init__ if inspect.isclass(call) else call, include_extras=True)
    except (
        NameError,
        AttributeError,
        TypeError,
    ):  # annotations of a user's loader that only a type checker can resolve
        return {}


def _checked(key: str, name: str, value: Any, annotation: Any, problems: list[str]) -> dict[str, Any]:
    try:
        return {name: coerce(value, annotation)}
    except Wrong as wrong:
        problems.append(f"{key}={value!r}: {wrong}")
        return {}


def coerce(value: Any, annotation: Any) -> Any:
    """The value as the annotation wants it.

    Raises:
        Wrong: It cannot be; says what was expected.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or isinstance(annotation, str | typing.TypeVar):
        return value
    if origin is Annotated:
        return _annotated(value, arguments)
    if origin in (Union, types.UnionType):
        return _union(value, annotation, arguments)
    if origin is Literal:
        return _literal(value, arguments)
    if origin in (list, tuple, Sequence) or (origin is not None and _is_sequence(origin)):
        return _list(value, annotation, arguments)
    if origin is dict or _is_mapping(origin):
        return _dict(value, annotation, arguments)
    return _plain(value, annotation)


def _is_sequence(origin: Any) -> bool:
    return inspect.isclass(origin) and issubclass(origin, Sequence)


def _is_mapping(origin: Any) -> bool:
    return inspect.isclass(origin) and issubclass(origin, Mapping)


def _annotated(value: Any, arguments: tuple[Any, ...]) -> Any:
    kind, *marks = arguments
    if any(isinstance(mark, Bytes) for mark in marks):
        value = parse_bytes(value)
    checked = coerce(value, kind)
    for mark in marks:
        if isinstance(mark, AtLeast) and checked < mark.bound:
            raise Wrong(f"expected {mark.bound:g} or more")
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
        raise Wrong("expected a size in bytes, such as 134217728, 128MiB or 2GB")
    return int(float(match[1]) * UNITS[match[2].lower()])


def _union(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    if value is None and type(None) in arguments:
        return None
    told = []
    for each in arguments:
        if each is type(None):
            continue
        try:
            return coerce(value, each)
        except Wrong as wrong:
            told.append(str(wrong))
    raise Wrong(told[0] if len(told) == 1 else f"expected {spelled(annotation)}")


def _literal(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise Wrong(f"expected {_or([str(each) for each in allowed])}{_close(value, allowed)}")
    return value


def _close(value: Any, allowed: tuple[Any, ...]) -> str:
    close = get_close_matches(str(value), [str(each) for each in allowed], 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _list(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        raise Wrong(f"expected {spelled(annotation)}, e.g. [{value}]")
    return [coerce(each, arguments[0] if arguments else Any) for each in value]


def _dict(value: Any, annotation: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise Wrong(f"expected {spelled(annotation)}, e.g. {{name: value}}")
    return {str(name): coerce(each, arguments[1] if arguments else Any) for name, each in value.items()}


def _plain(value: Any, kind: Any) -> Any:
    if not inspect.isclass(kind):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 is a float in YAML
    if kind in (int, float, str, bool) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise Wrong(f"expected {spelled(kind)}")
    return value


WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
}


def spelled(annotation: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return "a size in bytes" if any(isinstance(mark, Bytes) for mark in arguments[1:]) else spelled(arguments[0])
    if origin in (Union, types.UnionType):
        return _or([spelled(each) for each in arguments])
    if origin is Literal:
        return _or([str(each) for each in arguments])
    if origin is not None:
        return WORDS.get(origin, "a mapping" if _is_mapping(origin) else "a list")
    return WORDS.get(annotation, "a value")


def _or(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
