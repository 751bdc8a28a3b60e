"""From a dotted path to the thing itself, within what the environment allows."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from runner.check import nearest

ALLOWED = "RUNNER_ALLOWED_TARGETS"
OURS = ("runner.sources", "runner.sinks", "runner.modes", "models")
HYDRAS = (
    "hydra._internal.core_plugins",
    "logging.StreamHandler",
    "logging.FileHandler",
    "logging.Formatter",
    "logging.NullHandler",
)


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
        raise Refused(f"is a {type(found).__name__}, not something to call{_members(found)}")
    _allow(_identity(found, target), target)
    try:
        instantiate({"_target_": target, "_partial_": True})  # Hydra refuses what must never be called from a config
    except Exception as error:
        raise Refused(_first_line(error.__cause__ or error)) from error
    callable_found: Callable[..., Any] = found
    return callable_found


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
            raise Refused(
                f"there is no module {name} (looked in {Path.cwd()} and the installed packages){_hidden(target)}"
            ) from missing
        raise Refused(f"{name} needs the package {missing.name}, which is not installed") from missing
    except SyntaxError as error:
        raise Refused(f"{name} does not parse: {error.msg} ({error.filename}, line {error.lineno})") from error
    except Exception as error:
        raise Refused(f"importing {name} fails: {type(error).__name__}: {_first_line(error)}") from error


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


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


# ---------------------------------------------------------------- what is allowed


def closed() -> bool:
    """Whether the environment closes the list of what a config may call."""
    return bool(_prefixes())


def _prefixes() -> tuple[str, ...]:
    return tuple(prefix.strip().rstrip(".") for prefix in os.environ.get(ALLOWED, "").split(",") if prefix.strip(" ."))


def _allow(path: str, target: str) -> None:
    """Refuse what lies outside the list: `ops` admits `ops.x.load`, not `opsevil.load`."""
    allowed = _prefixes()
    if allowed and not _within(path, (*allowed, *OURS)):
        really = "" if path == target else f"is really {path}, which "
        raise Refused(f"{really}is not allowed here; {ALLOWED}={','.join(allowed)}")


def _within(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _identity(found: Any, target: str) -> str:
    """Where a thing was defined, however it was reached: `models.taxi.os.system` is `posix.system`."""
    module = getattr(found, "__module__", None)
    return f"{module}.{getattr(found, '__qualname__', type(found).__qualname__)}" if module else target


def refused_by_hydra(hydra_config: Any) -> list[str]:
    """What Hydra itself would call (callbacks, sweeper, launcher, logging) outside a closed list."""
    allowed = (*_prefixes(), *HYDRAS)
    return [
        f"{key}={path}: is not allowed here; {ALLOWED}={','.join(_prefixes())}"
        for key, path in _calls(hydra_config, "hydra")
        if closed() and not _within(path, allowed)
    ]


def _calls(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name in ("_target_", "()", "class") and isinstance(value, str):
                yield f"{key}.{name}", value
            yield from _calls(value, f"{key}.{name}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _calls(value, f"{key}[{i}]")


# ---------------------------------------------------------------- what it is made of


def code_of(call: Callable[..., Any]) -> str:
    """Digest of the source file that a loader is written in; of its own code where there is no file (a notebook)."""
    return f"sha256:{hashlib.sha256(_text(call)).hexdigest()}"


def _text(call: Callable[..., Any]) -> bytes:
    unwrapped = inspect.unwrap(call)
    try:
        file = inspect.getsourcefile(unwrapped)
        return Path(file).read_bytes() if file and Path(file).is_file() else inspect.getsource(unwrapped).encode()
    except (OSError, TypeError):
        code = getattr(unwrapped, "__code__", None)
        return (
            repr((code.co_code, code.co_consts, code.co_names)).encode() if code else type(call).__qualname__.encode()
        )


def state_of(predictor: Callable[..., Any]) -> str:
    """Digest of a ready predictor: its code, and what it holds (weights, a closure's variables), as far as that pickles."""
    total = hashlib.sha256(_text(predictor if hasattr(predictor, "__code__") else type(predictor)))
    cells = [cell.cell_contents for cell in getattr(predictor, "__closure__", None) or ()]
    for held in [predictor, *cells, getattr(predictor, "__defaults__", None)]:
        total.update(_pickled(held))
    return f"sha256:{total.hexdigest()}"


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # a lambda, a module, a handle: its code or its kind is all there is
        return type(value).__qualname__.encode()
