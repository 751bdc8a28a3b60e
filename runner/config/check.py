"""Check plain config values against a signature: unknown keys, missing keys, wrong types and ranges, all at once.

The signature of a component is its schema. What a value may be written as is in its annotation: `ByteSize` takes `128MiB`,
`Positive` refuses 0.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from runner.config.coerce import NOTHING, Wrong, coerce, spelled
from runner.words.secrets import shown

MISSING = "???"
BROKEN = object()  # stands for a value whose problem has been reported already


def nearest(name: str, names: Sequence[str], below: str = "") -> str:
    """` (did you mean x?)`, or what there is to choose from, each with what it lies below."""
    if close := get_close_matches(name, names, 1, 0.6):
        return f" (did you mean {below}{close[0]}?)"
    return f" (there are: {', '.join(below + each for each in names)})" if names else ""


def bind(call: Callable[..., Any], values: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    """The keyword arguments for `call` that `values` give; what is wrong is added to `problems`, and left out.

    Args:
        call: A class or function whose annotations say what is allowed.
        values: Plain data.
        key: Where the values stand in the config, for messages; `""` at its top.
        problems: Collects one line per problem.
    """
    named, open_ended = _parameters(call)
    hints = _hints(call, named)
    bound: dict[str, Any] = {}
    for name, value in values.items():
        if value is BROKEN or is_missing(value):
            continue
        if name in named:
            bound |= _checked(joined(key, name), name, value, hints[name], problems)
        elif open_ended:
            bound[name] = value
        else:
            problems.append(f"{joined(key, name)}: no such key{nearest(name, list(named))}")
    absent = [name for name, p in named.items() if p.default is p.empty and is_missing(values.get(name, MISSING))]
    unset = [name for name, value in values.items() if is_missing(value)]
    problems += [required(joined(key, name), hints.get(name, str)) for name in dict.fromkeys([*absent, *unset])]
    return bound


def joined(key: str, name: str) -> str:
    """A key below another."""
    return f"{key}.{name}" if key else name


def at(values: Mapping[str, Any], group: str, name: str) -> Any:
    """The value of a group's key, `None` if it is not there."""
    node = values.get(group)
    return node.get(name) if isinstance(node, dict) else None


def is_missing(value: Any) -> bool:
    """Whether the config says that this must be given."""
    return isinstance(value, str) and value == MISSING


def required(key: str, annotation: Any = str) -> str:
    """The problem of a key that must be given."""
    return f"{key}: is required; give {key}=<{spelled(annotation)}>"


def _parameters(call: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that can be given by name, and whether any other name is taken too."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except (ValueError, TypeError):  # compiled code need not tell: then only calling it does
        return {}, True
    by_name = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return by_name, any(p.kind is p.VAR_KEYWORD for p in parameters)


def defaults(call: Callable[..., Any]) -> dict[str, Any]:
    """The default values of a class's or function's parameters, by name; empty where it does not tell."""
    return {name: p.default for name, p in _parameters(call)[0].items() if p.default is not p.empty}


def _hints(call: Callable[..., Any], named: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Annotations, evaluated one by one: in a user's loader some may exist for a type checker only."""
    owner = inspect.unwrap(call.__init__ if inspect.isclass(call) else call)
    names = {**vars(typing), **getattr(owner, "__globals__", {})}
    return {name: _evaluated(parameter.annotation, names) for name, parameter in named.items()}


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, names)
    except Exception:
        return Any


def _checked(key: str, name: str, value: Any, annotation: Any, problems: list[str]) -> dict[str, Any]:
    try:
        return {name: coerce(value, annotation)}
    except Wrong as wrong:
        culprit = value if wrong.value is NOTHING else wrong.value
        problems.append(f"{shown(key + wrong.where, culprit)}: {wrong}{_advice(key, culprit, wrong)}")
        return {}


def _advice(key: str, value: Any, wrong: Wrong) -> str:
    """A version 1.10 arrives as the number 1.1: only quotes keep a text a text."""
    number = isinstance(value, float | bool) and wrong.expected.startswith("text")
    return f"; quote what only looks like a number: {key}='\"...\"'" if number else ""
