"""From a dotted path to the thing itself, within what the environment allows."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

ALLOWED = "RUNNER_ALLOWED_TARGETS"
OURS = ("runner.", "models.")


class Refused(ValueError):
    """A target that cannot be had; says why."""


def locate(target: str) -> Callable[..., Any]:
    """Import what a `_target_` names, without calling it.

    Raises:
        Refused: It is not allowed, cannot be imported, or cannot be called.
    """
    from hydra.utils import instantiate

    _allow(target)
    try:
        found = instantiate({"_target_": target, "_partial_": True}).func
    except Exception as error:
        cause = error.__cause__ or error
        raise Refused(
            f"cannot be imported: {next(iter(str(cause).splitlines()), '') or type(cause).__name__}{_hint(target)}"
        ) from error
    _allow(f"{getattr(found, '__module__', target)}.{getattr(found, '__qualname__', '')}")
    callable_found: Callable[..., Any] = found
    return callable_found


def _allow(target: str) -> None:
    prefixes = [prefix.strip() for prefix in os.environ.get(ALLOWED, "").split(",") if prefix.strip()]
    if prefixes and not target.startswith((*prefixes, *OURS)):
        raise Refused(f"{target} is not allowed here: {ALLOWED}={','.join(prefixes)}")


def _hint(target: str) -> str:
    """What to look at when a module is not found; an ops repository's models/__init__.py would hide ours."""
    package = target.partition(".")[0]
    if package == "models" and Path("models/__init__.py").exists():
        return "; models/__init__.py here hides the built-in models: delete it, a namespace package needs none"
    return f" (looked in {Path.cwd()} and the installed packages)"


def code_of(call: Callable[..., Any]) -> str:
    """Digest of the source file that a loader is written in; of its own code where there is no file (a notebook)."""
    unwrapped = inspect.unwrap(call)
    try:
        file = inspect.getsourcefile(unwrapped)
        text = Path(file).read_bytes() if file and Path(file).is_file() else inspect.getsource(unwrapped).encode()
    except (OSError, TypeError):
        code = getattr(unwrapped, "__code__", None)
        text = repr((code.co_code, code.co_consts, code.co_names)).encode() if code else repr(unwrapped).encode()
    return f"sha256:{hashlib.sha256(text).hexdigest()}"
