"""The list of targets that a config may use: `RUNNER_ALLOWED_TARGETS`, read once, when the program starts.

Later changes of the environment (`hydra.job.env_set`) have no effect on it. Workers get the driver's list together with the loader,
because their own environment may differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

ALLOWED = "RUNNER_ALLOWED_TARGETS"
OURS = ("runner.sources", "runner.sinks", "runner.modes", "models")
PICKLE = "+pickle"  # model files that are programs
RUNTIME_ENV = "+runtime_env"  # what Ray installs, sets and runs in workers
ADDRESS = "+ray_address"  # a cluster that the config names
ENV_SET = "+env_set"  # what Hydra sets in the environment
DRIVER = "+driver"  # a database's driver, which is native code
SWITCHES = (PICKLE, RUNTIME_ENV, ADDRESS, ENV_SET, DRIVER)
HOME = Path(__file__).resolve().parents[2]


def _read(text: str) -> tuple[str, ...]:
    return tuple(entry.strip().rstrip(".") for entry in text.split(",") if entry.strip(" ."))


entries = _read(os.environ.get(ALLOWED, ""))


def closed() -> bool:
    """Whether there is a list."""
    return bool(entries)


def refusal() -> str:
    """Why something is refused, for people."""
    return f"is not allowed here; {ALLOWED}={','.join(entries)}"


def refuses(switch: str) -> bool:
    """Whether the list is closed and does not name what is no target, such as `+pickle`."""
    return closed() and switch not in entries


def admits(path: str) -> bool:
    """Whether a dotted path is on the list, or built in: `ops` admits `ops.x.load`, not `opsevil.load`."""
    return not closed() or within(path, named()) or (within(path, OURS) and comes_from_here(path))


def named() -> tuple[str, ...]:
    """The prefixes on the list."""
    return tuple(entry for entry in entries if entry not in SWITCHES)


def within(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted path is one of these, or lies below one."""
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def comes_from_here(path: str) -> bool:
    """Whether the module that a built-in's path begins with lies beside this one, found without importing anything.

    A `models/` in the working directory has the same name as ours: its modules are not ours, and where one has the name of one of
    ours (`models/_files.py`), ours would import it.
    """
    top, *below = path.split(".")
    own = HOME / top
    if _shadowed(top, own):
        return False
    file = own
    for name in below:
        if (file / f"{name}.py").is_file():
            return True
        file = file / name
        if not file.is_dir():
            return False
    return True


def _shadowed(top: str, own: Path) -> bool:
    spec = PathFinder.find_spec(top)
    if spec is None or spec.submodule_search_locations is None:
        return True
    if spec.origin is not None:  # a package with an `__init__.py` is the only one of its name
        return Path(spec.origin).resolve().parent != own
    others = [folder for folder in map(Path, spec.submodule_search_locations) if folder.resolve() != own]
    ours = {file.stem for file in own.iterdir() if not file.name.startswith("__")}
    return any(each.name.partition(".")[0] in ours for folder in others for each in folder.iterdir())


def under(given: tuple[str, ...], call: Callable[..., Any], /, **arguments: Any) -> Any:
    """Call a loader under the driver's list, wherever it runs."""
    global entries
    entries = given
    return call(**arguments)
