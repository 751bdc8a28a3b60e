"""The user's own modules that some code imports, and a digest of each, without comments and docstrings. Nothing is executed.

A module is the user's own unless it belongs to the standard library, to an installed package (`site-packages`,
`dist-packages`) or to this program. A package that is installed as editable lies elsewhere, so it is the user's own. The built-in
loaders in `models` always count.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from typing import Any, NamedTuple

OURS = Path(__file__).parents[1]
BUILT_IN = "models"
INSTALLED = frozenset({"site-packages", "dist-packages"})
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
NO_CODE = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # fields of a syntax tree
IMPORTERS = frozenset({"import_module", "__import__"})


class Module(NamedTuple):
    """What the file of a module says.

    Attributes:
        digest: Of its code; empty where there is none.
        imports: The modules that it may import, by name.
    """

    digest: str
    imports: tuple[str, ...]


def reached(names: Iterable[str]) -> dict[str, str]:
    """The digests of the user's own modules among these, and among all that they import, by name."""
    waiting = {above for name in names for above in _with_parents(name)}
    seen: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        file = own_file(name)
        found = _module(file, _stamp(file), _package(name, file)) if file else Module("", ())
        seen[name] = found.digest
        waiting |= set(found.imports) - seen.keys()
    return {name: seen[name] for name in sorted(seen) if seen[name]}


def installed(name: str) -> dict[str, str]:
    """The code of a module in an installed package, and the version of the package, which stands for its other modules."""
    top, spec = name.partition(".")[0], _spec(name)
    file = spec.origin if spec is not None and spec.has_location else None
    if not file or own_file(name) or _is_standard(name) or Path(file).is_relative_to(OURS):
        return {}
    versions = {package: metadata.version(package) for package in _distributions().get(top, ())}
    return {name: _module(file, _stamp(file), _package(name, file)).digest, **versions}


@lru_cache(maxsize=1)
def _distributions() -> dict[str, Any]:
    return dict(metadata.packages_distributions())


# ---------------------------------------------------------------- where a module lies


def own_file(name: str) -> str | None:
    """The file of a module of the user's own; `None` for any other module, and for a folder without a file."""
    if not name or name == "__main__" or _is_standard(name) or _is_installed(name.partition(".")[0]):
        return None
    spec = _spec(name)
    if spec is None or not spec.has_location or not spec.origin:
        return None
    return spec.origin if _is_own(name, spec.origin) else None


@lru_cache(maxsize=8192)
def _is_own(name: str, file: str) -> bool:
    if Path(file).is_relative_to(OURS):
        return False
    return name.startswith(f"{BUILT_IN}.") or not INSTALLED & set(Path(file).parts)


def _is_standard(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _is_installed(top: str) -> bool:
    """Whether a package lies in `site-packages` or `dist-packages`, so that none of its modules needs to be searched."""
    spec = _spec(top)
    return spec is not None and bool(spec.origin) and not _is_own(top, str(spec.origin))


def _spec(name: str) -> ModuleSpec | None:
    """The spec of a module. Unlike `importlib.util.find_spec`, this does not import the packages above it."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    above = name.rpartition(".")[0]
    folders = _folders(above) if above else None
    if folders == []:
        return None
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is not None and (found := find(name, folders, None)) is not None:
            return found  # type: ignore[no-any-return]
    return None


def _folders(package: str) -> list[str]:
    """The folders in which the modules of a package lie."""
    loaded = getattr(sys.modules.get(package), "__path__", None)
    if loaded is not None:
        return list(loaded)
    spec = _spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return []
    if spec.origin:
        return list(spec.submodule_search_locations)
    above, _, last = package.rpartition(
        "."
    )  # a namespace package cannot tell its folders before its parent is imported
    return [os.path.join(folder, last) for folder in (_folders(above) if above else sys.path)]  # noqa: PTH118


def _with_parents(name: str) -> list[str]:
    """The name and its packages: `a.b.c` imports `a` and `a.b` as well."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _package(name: str, file: str) -> str:
    return name if file.endswith("__init__.py") else name.rpartition(".")[0]


# ---------------------------------------------------------------- what a module says


def _stamp(file: str) -> tuple[int, int]:
    told = Path(file).stat()
    return told.st_mtime_ns, told.st_size


@lru_cache(maxsize=4096)
def _module(file: str, stamp: tuple[int, int], package: str) -> Module:  # noqa: ARG001
    """Read a file. The stamp is part of the cache's key, so that a changed file is read again."""
    content = Path(file).read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled code
        return Module(_digest(content), ())
    _strip(tree)
    imports = {above for name in _imports(tree, package) for above in _with_parents(name)}
    code = "".join(_spelled(tree)) if tree.body else ""
    return Module(_digest(code.encode()) if code else "", tuple(sorted(imports)))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _strip(tree: ast.Module) -> None:
    """Remove what is never executed: docstrings, and imports for type checkers."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []


def _spelled(node: Any) -> Iterator[str]:
    """A syntax tree as text. It is the same for the same code, wherever that stands, in every minor version of Python.

    `ast.dump` spells optional fields that are empty in some versions and not in others; here they are always left out.
    """
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name in node._fields:
            value = getattr(node, name, None)
            if name not in NO_CODE and value is not None and value != []:
                yield f"{name}="
                yield from _spelled(value)
        yield ")"
    elif isinstance(node, list):
        for each in node:
            yield from _spelled(each)
            yield ","
    else:
        yield repr(node)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that code imports, anywhere in it. `from a import b` also names `a.b`, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*"))
        elif isinstance(node, ast.Call) and _calls_importer(node):
            name = _absolute(str(getattr(node.args[0], "value", "")), package)
            if name:
                yield name


def _calls_importer(node: ast.Call) -> bool:
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return called in IMPORTERS and bool(node.args) and isinstance(getattr(node.args[0], "value", None), str)


def _absolute(name: str, package: str) -> str:
    """The absolute name of a relative import; empty where it leads out of the package."""
    try:
        return resolve_name(name, package)
    except (ImportError, ValueError):
        return ""
