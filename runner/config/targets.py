"""Imports what a dotted path names, if the list of allowed targets allows it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from runner.config import allowed
from runner.config.check import nearest

HYDRAS = (
    "hydra._internal.core_plugins",
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
    "sys.stdout",
    "sys.stderr",
)
MAYBE_A_NODE = re.compile(r"\s*\$\{(?!\s*(hydra[.:]|now:|oc\.env:))")


_folders: list[str] = []  # that were made importable here


class Refused(ValueError):
    """A target that cannot be had; says why."""


def locate(target: str) -> Callable[..., Any]:
    """Import what a `_target_` names, without calling it.

    Raises:
        Refused: It is not allowed, cannot be imported, or cannot be called.
    """
    from hydra.utils import instantiate

    _allow(target, target)
    found = _imported(target)
    if not callable(found):
        raise Refused(f"is {a_kind(found)}, not something to call{_members(found)}")
    _allow(_identity(found, target), target)
    try:
        instantiate({"_target_": target, "_partial_": True})  # Hydra refuses what must never be called from a config
    except Exception as error:
        raise Refused(_first_line(error.__cause__ or error)) from error
    callable_found: Callable[..., Any] = found
    return callable_found


def refusal(target: str) -> str:
    """Why what a path names cannot be had; `""` if it can."""
    try:
        locate(target)
    except Refused as refused:
        return str(refused)
    return ""


def _imported(target: str) -> Any:
    """The thing itself: the longest importable module, then its attributes."""
    if not all(part.isidentifier() for part in target.split(".")):
        raise Refused("is not a dotted path; expected one such as package.module.name")
    names = target.split(".")
    found: Any = _module(names[0], target)
    for i, name in enumerate(names[1:], 2):
        if hasattr(found, name):
            found = getattr(found, name)
        elif (
            isinstance(found, ModuleType)
            and hasattr(found, "__path__")
            and importlib.util.find_spec(".".join(names[:i]))
        ):
            found = _module(".".join(names[:i]), target)
        else:
            kind = "module" if isinstance(found, ModuleType) else "attribute"
            raise Refused(f"{kind} {'.'.join(names[: i - 1])} has no {name}{_members(found, name)}{_hidden(target)}")
    return found


def _module(name: str, target: str) -> ModuleType:
    """Import a module, and say what really went wrong if it fails: most often something that it imports itself."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name == name:
            raise Refused(f"there is no module {name} (looked in {_looked_in()}){_hidden(target)}") from missing
        raise Refused(f"{name} needs the package {missing.name}, which is not installed") from missing
    except SyntaxError as error:
        raise Refused(f"{name} does not parse: {error.msg} ({error.filename}, line {error.lineno})") from error
    except Exception as error:
        raise Refused(f"importing {name} fails: {type(error).__name__}: {_first_line(error)}") from error


def importable(folder: Path) -> None:
    """Find modules of a folder by name, here and in all workers, which get this process's path.

    It comes last: a file of it that has the name of an installed package, or of a module of Python's own, must not hide that.
    """
    if (place := str(folder)) not in sys.path:
        sys.path.append(place)
        _folders.append(place)


def _looked_in() -> str:
    return (
        f"{', '.join([str(Path.cwd()), *(each for each in _folders if each in sys.path)])} and the installed packages"
    )


def _members(found: Any, name: str = "") -> str:
    """What could have been meant: callables that a module defines itself."""
    if not isinstance(found, ModuleType):
        return ""
    own = [
        each for each, value in vars(found).items()
        if callable(value) and not each.startswith("_") and getattr(value, "__module__", "") == found.__name__
    ]  # fmt: skip
    return nearest(name, sorted(own)[:20])


def _hidden(target: str) -> str:
    """An ops repository's `models/__init__.py` makes its folder the only `models` there is."""
    if target.partition(".")[0] != "models":
        return ""
    spec = importlib.util.find_spec("models")
    if spec is None or spec.origin is None:
        return ""
    return f"; {spec.origin} hides the built-in models: delete it, a folder of loaders needs none"


def a_kind(value: Any) -> str:
    """`a module`, `an int`."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# ---------------------------------------------------------------- what is allowed


def _allow(path: str, target: str) -> None:
    """Refuse what lies outside the list, and what has a built-in's name and comes from elsewhere."""
    if not allowed.admits(path):
        really = "" if path == target else f"is really {path}, which "
        foreign = (
            "" if not allowed.within(path, allowed.OURS) else "is not the built-in one, or hides one by its name: it "
        )
        raise Refused(f"{really}{foreign}{allowed.refusal()}")


def _identity(found: Any, target: str) -> str:
    """Where a thing was defined, however it was reached: `models.taxi.os.system` is `posix.system`."""
    module = getattr(found, "__module__", None)
    return f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}" if module else target


def refused_by_hydra(hydra_config: Any) -> list[str]:
    """What Hydra itself would call (callbacks, sweeper, launcher, logging), set or read outside a closed list."""
    if not allowed.closed():
        return []
    found = [
        f"{key}={path}: {allowed.refusal()}"
        for key, path in _calls(hydra_config, "hydra")
        if not allowed.within(path, (*allowed.named(), *HYDRAS))
    ]
    job = hydra_config.get("job") or {}
    if allowed.refuses(allowed.ENV_SET) and job.get("env_set"):
        found.append(f"hydra.job.env_set: setting {', '.join(job['env_set'])} {allowed.refusal()}")
    return found


def _calls(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """What is imported: targets and, in the settings of logging, classes and values that begin with `ext://`.

    A reference to what lies elsewhere may bring any of these, so it counts as one.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in ("_target_", "()", "class", "queue", "listener") and isinstance(value, str):
                yield f"{key}.{name}", value
            else:
                yield from _calls(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _calls(value, f"{key}[{i}]")
    elif isinstance(node, str) and ("ext://" in node or MAYBE_A_NODE.match(node)):
        yield key, node.removeprefix("ext://")
