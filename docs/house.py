"""Draw the house: which wing imports which, and what each room does, into CONTRIBUTING.md.

`python docs/house.py` writes both between their markers, from the imports and the first lines of the docstrings.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- house: made by docs/house.py -->", "<!-- end of house -->"

Graph = Mapping[str, frozenset[str]]


def modules() -> dict[str, Path]:
    """Every module of the program by its dotted name below `runner`; a package by its own."""
    files = sorted((ROOT / "runner").rglob("*.py"))
    return {".".join(file.relative_to(ROOT / "runner").with_suffix("").parts): file for file in files}


def wing(module: str) -> str:
    """The folder that a module lies in, or the module itself where it lies in none."""
    return module.partition(".")[0]


def imported(file: Path) -> Iterator[str]:
    """The modules below `runner` that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "runner":
            for alias in node.names:
                yield f"{node.module}.{alias.name}".removeprefix("runner.")


def graph() -> Graph:
    """Each wing with the wings that it imports from."""
    known = {wing(module) for module in modules()} - {"__init__"}
    found: dict[str, set[str]] = {each: set() for each in known}
    for module, file in modules().items():
        if module != "__init__":
            found[wing(module)] |= {wing(name) for name in imported(file)} & known - {wing(module)}
    return {name: frozenset(below) for name, below in found.items()}


def floors(house: Graph) -> dict[str, int]:
    """How many wings stand below each, one upon the other: 0 for what imports nothing."""
    floor: dict[str, int] = {}
    while ready := [name for name in house if name not in floor and house[name] <= floor.keys()]:
        floor.update({name: 1 + max((floor[below] for below in house[name]), default=-1) for name in ready})
    return floor


def needful(house: Graph) -> Graph:
    """The arrows that no longer way replaces: the picture of all of them shows nothing."""
    return {name: below - {far for near in below for far in _reached(house, near)} for name, below in house.items()}


def _reached(house: Graph, name: str) -> set[str]:
    return {far for near in house[name] for far in {near, *_reached(house, near)}}


def first_line(file: Path) -> str:
    """What a room does."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


def drawn() -> str:
    """The picture and the list, as Markdown."""
    house = graph()
    floor = floors(house)
    order = sorted(house, key=lambda name: (-floor[name], name))
    arrows = [f"    {name} --> {below}" for name in order for below in sorted(needful(house)[name], key=order.index)]
    picture = ["```mermaid", "flowchart TD", *arrows, "```"]
    return "\n".join([BEGIN, "", *picture, "", *_rooms(order), "", END])


def _rooms(order: list[str]) -> Iterator[str]:
    there = modules()
    for name in order:
        if name in there:
            yield f"- **`{name}.py`** {first_line(there[name])}"
            continue
        yield f"- **`{name}/`** {first_line(there[f'{name}.__init__'])}"
        for module, file in there.items():
            if wing(module) == name and not module.endswith("__init__"):
                yield f"  - `{file.name}` {first_line(file)}"


def redrawn(page: str) -> str:
    """The page with the house as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{drawn()}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(redrawn(PAGE.read_text()))
