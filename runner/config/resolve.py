"""A composed config as plain data. Every interpolation is resolved; one that cannot be resolved is a problem."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from runner.config.check import BROKEN, MISSING, joined, required
from runner.config.options import CONF


def resolved(cfg: DictConfig, broken: Collection[str], problems: list[str]) -> dict[str, Any]:
    """The config as plain data.

    Args:
        cfg: Composed.
        broken: Keys whose problem has been reported already. They become `BROKEN`, as does a value that cannot be resolved.
        problems: Collects one line per problem.
    """
    values = _mapping(cfg, "", problems)
    for key in broken:
        _break(values, key.split("."))
    return values


def is_broken(node: Any) -> bool:
    """Whether a value is `BROKEN`, or contains one that is."""
    if isinstance(node, dict):
        return any(map(is_broken, node.values()))
    return any(map(is_broken, node)) if isinstance(node, list) else node is BROKEN


def _break(values: dict[str, Any], path: list[str]) -> None:
    *above, last = path
    for name in above:
        below = values.get(name)
        if not isinstance(below, dict):
            return
        values = below
    values[last] = BROKEN


def _mapping(node: DictConfig, key: str, problems: list[str]) -> dict[str, Any]:
    return {str(name): _value(node, name, joined(key, str(name)), problems) for name in node}


def _node(node: Container, key: str, problems: list[str]) -> Any:
    if isinstance(node, ListConfig):
        return [_value(node, i, f"{key}[{i}]", problems) for i in range(len(node))]
    assert isinstance(node, DictConfig)
    return _mapping(node, key, problems)


def _value(parent: Any, name: Any, key: str, problems: list[str]) -> Any:
    if OmegaConf.is_missing(parent, name):
        return MISSING
    try:
        value = parent[name]
    except OmegaConfBaseException as error:
        problems.append(_unresolved(error, key, _raw(parent, name)))
        return BROKEN
    if isinstance(value, str) and (wrong := _within_a_text(parent, name)):
        problems.append(f"{key}={wrong}")
        return BROKEN
    return _node(value, key, problems) if isinstance(value, Container) and not value._is_none() else value


def _within_a_text(parent: Any, name: Any) -> str | None:
    """A mapping or a list where a part of a text is wanted, as in `out/${mode}`."""
    raw = _raw(parent, name)
    for reference in re.findall(r"(?<!\\)\$\{(\w[\w.]*)\}", str(raw)):
        found = OmegaConf.select(parent._get_root(), reference)
        if isinstance(found, Container):
            kind = "list" if isinstance(found, ListConfig) else "mapping"
            chosen = f"the option's name is ${{hydra:runtime.choices.{reference}}}"
            remedy = chosen if (CONF / reference).is_dir() else "name one of its values"
            return f"{raw}: ${{{reference}}} is a {kind}, which is no part of a text; {remedy}"
    return None


def _raw(parent: Any, name: Any) -> Any:
    """A value as it was written; of it alone, since its neighbours may be many."""
    node = parent._get_node(name)
    return OmegaConf.to_container(node, resolve=False) if isinstance(node, Container) else node._value()


def _unresolved(error: Exception, key: str, raw: Any) -> str:
    first = str(error).splitlines()[0]
    if variable := re.search(r"Environment variable '([^']+)'", first):
        return f"{key}={raw}: the environment variable {variable[1]} is not set"
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", first):
        inside = missing[1].startswith("hydra.")
        return f"{key}={raw}: {missing[1]} has no value here" if inside else required(missing[1])
    if absent := re.search(r"Interpolation key '([^']+)' not found", first):
        return f"{key}={raw}: there is no {absent[1]}; give {absent[1]}=..."
    return f"{key}={raw}: {first}"
