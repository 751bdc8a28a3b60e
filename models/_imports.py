"""Imports what a loader's arguments name by a dotted path, and checks packages, permissions and arguments before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

from runner.config import allowed, targets
from runner.storage.locations import install


def not_installed(extra: str, *packages: str) -> list[str]:
    """Return a problem if packages that a loader needs are not installed here.

    Args:
        extra: The extra of this project that installs them; also the name of the option of `model`.
        packages: Names under which they are imported.

    Returns:
        One message, or none.
    """
    absent = [package for package in packages if not find_spec(package)]
    return [f"model={extra} needs {', '.join(absent)}: {install(extra)}"] if absent else []


def locate(key: str, path: str) -> Callable[..., Any]:
    """Import what a dotted path names, under the same rules as any `_target_`.

    Args:
        key: The config key that names it, for messages.
        path: Such as `package.module.name`.

    Raises:
        ValueError: The path is not allowed, cannot be imported, or leads to something that cannot be called.
    """
    try:
        return targets.locate(path)
    except targets.Refused as refused:
        raise ValueError(f"{key}={path}: {refused}") from refused


def refuse_pickle(key: str, path: str) -> None:
    """Raise an error for a file that executes code when it is read, if `RUNNER_ALLOWED_TARGETS` is set and does not allow pickles.

    Raises:
        ValueError: Pickles are not allowed.
    """
    if allowed.refuses(allowed.PICKLE):
        raise ValueError(
            f"{key}={path}: a file that executes code when it is read {allowed.refusal()}; add {allowed.PICKLE} to allow it"
        )


def pickle_problems(key: str) -> list[str]:
    """Return a problem with a file that executes code when it is read, if `RUNNER_ALLOWED_TARGETS` is set and does not allow pickles."""
    if not allowed.refuses(allowed.PICKLE):
        return []
    return [
        f"{key}: a file that executes code when it is read {allowed.refusal()}; add {allowed.PICKLE} to the list to allow it"
    ]


def path_problems(key: str, path: str | None) -> list[str]:
    """Return a problem if a dotted path leads to nothing that can be called; no path is no problem."""
    refused = targets.refusal(path) if path is not None else ""
    return [f"{key}={path}: {refused}"] if refused else []


def check_arguments(key: str, path: str, call: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise an error if keyword arguments do not fit the signature of a callable, which is not called.

    Raises:
        ValueError: They do not fit; the message shows the signature.
    """
    try:
        signature = inspect.signature(call)
    except ValueError:  # some compiled classes have no signature that can be read
        return
    try:
        signature.bind(**arguments)
    except TypeError as mismatch:
        raise ValueError(f"{key} does not fit {path}{signature}: {mismatch}") from mismatch
