"""Imports point one way, and heavy packages are imported where they are used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runner

ROOT = Path(runner.__file__).parent
HEAVY = {"ray", "torch", "pandas", "pyarrow", "numpy", "sklearn", "joblib"}
CONFIG = {"composition", "overrides", "resolve", "config", "prepare", "cli", "api"}  # the rooms that know Hydra
MODULES = sorted(str(file.relative_to(ROOT).with_suffix("")).replace("/", ".") for file in ROOT.rglob("*.py"))


def tree(module: str) -> ast.Module:
    file = ROOT / f"{module.replace('.', '/')}.py"
    return ast.parse(file.read_text())


def names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module
        if node.module == "runner" or node.module.count(".") == 1:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(module: str) -> set[str]:
    """Wherever they stand."""
    return {name for node in ast.walk(tree(module)) for name in names(node)}


def top_imports(module: str) -> set[str]:
    """Those that importing the module does at once."""
    return {name for node in tree(module).body for name in names(node)}


def package(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_only_modes_import_ray(module: str) -> None:
    if not module.startswith("modes.") and module != "weights":
        assert "ray" not in map(package, all_imports(module))


@pytest.mark.parametrize("module", MODULES)
def test_only_the_config_imports_hydra(module: str) -> None:
    if module not in {*CONFIG, "targets"}:
        assert not {"hydra", "omegaconf"} & set(map(package, all_imports(module)))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_in_functions(module: str) -> None:
    assert not HEAVY & set(map(package, top_imports(module)))


@pytest.mark.parametrize("module", MODULES)
def test_no_room_imports_the_config(module: str) -> None:
    """Jobs are built by the config, and know nothing of it."""
    if module not in {*CONFIG, "__main__", "__init__", "crosscheck"}:
        assert not {f"runner.{name}" for name in CONFIG} & all_imports(module)


def test_there_is_no_circle() -> None:
    known = {f"runner.{module}" for module in MODULES}
    graph = {f"runner.{module}": top_imports(module) & known for module in MODULES if module != "__init__"}
    done: set[str] = set()
    while ready := {module for module, needs in graph.items() if module not in done and needs <= done}:
        done |= ready
    assert set(graph) - done == set()
