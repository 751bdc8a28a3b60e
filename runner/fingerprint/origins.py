"""Where code and values come from: the user's own modules, an installed package, Python itself, or this program."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

from runner.fingerprint.modules import OURS, own_file


def module_of(thing: Any) -> str:
    """The module in which code was defined, by its globals: a decorator copies `__module__` to its wrapper."""
    if isinstance(thing, FunctionType):
        return str(thing.__globals__.get("__name__", ""))
    return str(getattr(thing, "__module__", "") or "")


def qualified_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def kind_of(value: Any) -> str:
    return qualified_name(type(value))


def has_version(module: str) -> bool:
    """Whether a version stands for the code of a module: of Python, of an installed package, or of this program."""
    return is_standard(module) or is_installed(module)


def is_known(module: str) -> bool:
    """Whether a version, or the digest of the whole module, stands for the code of a module."""
    return has_version(module) or own_file(module) is not None


def is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def is_installed(module: str) -> bool:
    """Whether a module belongs to an installed package."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if module == "__main__" or is_standard(module):
        return False
    if file is None:  # of a notebook; or compiled into the interpreter or an extension, as `torch._C._nn` is
        top = module.partition(".")[0]
        return module != top and is_installed(top)
    return own_file(module) is None and (str(file).startswith(str(OURS)) or "-packages" in str(file))


def may_be_loaded(value: Any) -> bool:
    """Whether a value may come from a file. Plain data and Python's own objects are made by the module's code."""
    return not is_standard(type(value).__module__)
