"""Code that a loader's argument names by its dotted path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from runner.config import allowed, targets
from runner.storage.locations import install


def not_installed(extra: str, *packages: str) -> list[str]:
    """The problem of packages that a loader needs and that are not installed here; none if all are.

    Args:
        extra: What brings them, which is also the name of the model's option.
        packages: What is imported.
    """
    absent = [package for package in packages if not find_spec(package)]
    return [f"model={extra} needs {', '.join(absent)}: {install(extra)}"] if absent else []


def locate(key: str, path: str) -> Callable[..., Any]:
    """Import the callable behind a dotted path, under the same rules as any `_target_`.

    Args:
        key: The config key that names it, for messages.
        path: Such as `package.module.name`.

    Raises:
        ValueError: It is not allowed, cannot be imported, or cannot be called.
    """
    try:
        return targets.locate(path)
    except targets.Refused as refused:
        raise ValueError(f"{key}={path}: {refused}") from refused


def refuse_pickle(key: str, path: str) -> None:
    """Refuse a file that is a program, where a list says what may be called and does not name pickles.

    Raises:
        ValueError: It does not.
    """
    if allowed.refuses(allowed.PICKLE):
        raise ValueError(
            f"{key}={path}: a file that executes code when it is read {allowed.told()}; add {allowed.PICKLE} to allow it"
        )


def pickle_problems(key: str) -> list[str]:
    """The problem of a file that is a program, where a list says what may be called and does not name pickles."""
    if not allowed.refuses(allowed.PICKLE):
        return []
    return [
        f"{key}: a file that executes code when it is read {allowed.told()}; add {allowed.PICKLE} to the list to allow it"
    ]


def path_problems(key: str, path: str | None) -> list[str]:
    """The problem of a dotted path that leads to nothing that can be called; none if there is no path."""
    refused = targets.refusal(path) if path is not None else ""
    return [f"{key}={path}: {refused}"] if refused else []


def check_arguments(key: str, path: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check keyword arguments against a signature without calling.

    Raises:
        ValueError: They do not bind; the message shows the signature.
    """
    try:
        signature = inspect.signature(call)
    except ValueError:  # some compiled classes tell none
        return
    try:
        signature.bind(**arguments)
    except TypeError as mismatch:
        raise ValueError(f"{key} does not fit {path}{signature}: {mismatch}") from mismatch
