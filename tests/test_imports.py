"""Imports point one way, and heavy packages are imported where they are used."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import house
import pytest

HEAVY = {"ray", "torch", "pandas", "pyarrow", "numpy", "sklearn", "joblib"}
DOORS = {"cli", "api", "config"}  # where Hydra is known
MODULES = house.modules()


def names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module.startswith("runner"))


def all_imports(module: str) -> set[str]:
    """Wherever they stand."""
    return {name for node in ast.walk(ast.parse(MODULES[module].read_text())) for name in names(node)}


def top_imports(module: str) -> set[str]:
    """Those that importing the module does at once."""
    return {name for node in ast.parse(MODULES[module].read_text()).body for name in names(node)}


def packages(imports: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in imports}


@pytest.mark.parametrize("module", MODULES)
def test_only_modes_import_ray(module: str) -> None:
    assert house.wing(module) == "modes" or "ray" not in packages(all_imports(module))


@pytest.mark.parametrize("module", MODULES)
def test_only_the_doors_import_hydra(module: str) -> None:
    assert house.wing(module) in DOORS or not {"hydra", "omegaconf"} & packages(all_imports(module))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_in_functions(module: str) -> None:
    assert not HEAVY & packages(top_imports(module))


def test_imports_between_wings_point_one_way() -> None:
    """No wing imports from another that imports from it, also through others, wherever in a file the import stands."""
    wings = house.graph()
    assert set(wings) - set(house.floors(wings)) == set()


def test_imports_between_rooms_point_one_way() -> None:
    known = {f"runner.{module}" for module in MODULES}
    rooms = {f"runner.{each}": frozenset(top_imports(each) & known) for each in MODULES if each != "__init__"}
    assert set(rooms) - set(house.floors(rooms)) == set()


def test_types_import_nothing_of_the_house() -> None:
    assert house.graph()["types"] == frozenset()


def test_the_house_is_drawn_as_it_is() -> None:
    page = house.PAGE.read_text()
    assert house.redrawn(page) == page, "run `python docs/house.py`"
