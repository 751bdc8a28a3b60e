"""The parts of a config, each made by what its node names. Problems are collected; a part that has one is left out."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from runner.config import allowed
from runner.config.check import BROKEN, bind, is_missing, required
from runner.config.composition import chosen
from runner.config.foreign import made_of
from runner.config.options import CONF, keys, options
from runner.config.resolve import is_broken
from runner.config.targets import Refused, a_kind, locate
from runner.errors import ConfigError
from runner.fingerprint.ingredients import of_loader
from runner.storage.locations import absolute
from runner.types import Loader, Mode, Sink, Source
from runner.words.secrets import redacted, shown

SEAMS: dict[str, Any] = {"source": Source, "mode": Mode, "sink": Sink}
BATCH_NAMES = {"batch", "df", "X"}  # what the one argument of a function that predicts is called
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


class Parts:
    """The config's nodes, turned into values one by one.

    Attributes:
        values: The config as plain data.
        raw: The same before its interpolations were resolved.
        problems: One line for each problem so far.
        sink_path: The sink's path as it was given, `None` if it was not.
        default_sink: Whether the output goes to the run's own folder, since the sink takes a path and none was given.
        made: What was made, by its key.
        source_made: Of a source that is not built in: its code, and the arguments it was made with.
    """

    def __init__(self, values: Mapping[str, Any], raw: Mapping[str, Any], problems: list[str]) -> None:
        """Take the config, and the list that problems are added to."""
        self.values, self.raw, self.problems = values, raw, problems
        self.sink_path: str | None = None
        self.default_sink = False
        self.made: dict[str, Any] = {}
        self.source_made: Mapping[str, Any] = {}
        problems += [required(key) for key, value in _leaves(self.node("vars"), "vars") if is_missing(value)]

    def options(self, kind: Any, key: str) -> Any:
        """A frozen dataclass of options; at the top, of the keys that belong to no group."""
        names = {field.name for field in fields(kind)}
        node = self.node(key) if key else {name: self.values[name] for name in names if name in self.values}
        arguments = self._bound(kind, key, node)
        made = None if arguments is None else self._made(kind, key, arguments, node)
        self.made |= {} if made is None else {key: made}
        return made

    def component(self, key: str, **defaults: Any) -> Any:
        """What the node's `_target_` makes of the rest of the node; `None` if there is a problem.

        Args:
            key: Of the node: `source`, `mode` or `sink`.
            defaults: Arguments to add where the node does not give them and the target takes them.
        """
        node = self.node(key)
        call = self._target(key, node)
        if call is None:
            return None
        given = node.get("path")
        if key == "sink" and isinstance(given, str | os.PathLike):
            self.sink_path = str(given)
            defaults = {"path": absolute(self.sink_path)}  # workers have a working directory of their own
        usable = isinstance(given, str | os.PathLike) or (given is None and not getattr(call, "own_place", False))
        taken = {name: value for name, value in defaults.items() if usable and _takes(call, name)}
        if key == "sink":
            self.default_sink = given is None and "path" in taken
        arguments = self._bound(call, key, {**arguments_of(node), **taken})
        made = None if arguments is None else self._made(call, key, arguments, node)
        if made is None or self._lacks_methods(key, node, made):
            return None
        self.made[key] = made
        if key == "source":
            self.source_made = {} if str(node["_target_"]).startswith("runner.") else made_of(call, node)
        return made

    def _lacks_methods(self, key: str, node: Mapping[str, Any], made: Any) -> bool:
        """Whether it lacks methods of its seam, which is then added to the problems."""
        seam = SEAMS[key]
        lacking = [name for name in vars(seam) if not name.startswith("_") and name not in dir(made)]
        if lacking:
            self.problems.append(
                f"{key}._target_={node['_target_']}: made {a_kind(made)}, which is no {key}: "
                f"a {key} inherits from runner.types.{seam.__name__} and defines {', '.join(sorted(seam.__abstractmethods__))}"
            )
        return bool(lacking)

    def loader(self, *, here: bool) -> Loader | None:
        """The model's loader, bound to its arguments and not called; `None` if there is a problem.

        Args:
            here: Whether this process is the one that will call it.
        """
        node = self.node("model")
        call = self._target("model", node)
        if call is None:
            return None
        target, before = str(node["_target_"]), len(self.problems)
        arguments = self._bound(call, "model", arguments_of(node))
        self.problems[before:] = _explained(call, target, self.problems[before:])
        if arguments is None:
            return None
        self.problems += own_problems(call, arguments, here=here)
        recorded = {
            name: value if name == "storage_options" else redacted(value, f"model.{name}")
            for name, value in arguments.items()
        }
        listed = functools.partial(allowed.under, allowed.entries, call, **arguments)
        return Loader(
            listed if allowed.closed() else functools.partial(call, **arguments),
            target,
            recorded,
            of_loader(call, target, arguments),
        )

    def node(self, key: str) -> dict[str, Any]:
        """The mapping below a key; an empty one if there is none, or something else."""
        node = self.values.get(key)
        if isinstance(node, dict):
            return node
        if node is not None and node is not BROKEN:
            self.problems.append(f"{shown(key, node)}: expected a mapping, such as {key}.name=value")
        return {}

    def _target(self, key: str, node: Mapping[str, Any]) -> Callable[..., Any] | None:
        """What is to be called; `None` if there is a problem."""
        if not isinstance(self.values.get(key, {}), dict | None):
            return None  # which is among the problems already
        target = node.get("_target_")
        if target is BROKEN:
            return None
        if not isinstance(target, str) or is_missing(target):
            self.problems.append(
                f"{key}._target_: is required; give {key}._target_=pkg.module.name, or choose a built-in: {key}=..."
            )
            return None
        try:
            return locate(target)
        except Refused as refused:
            self.problems.append(f"{key}._target_={target}: {refused}")
            return None

    def _bound(self, call: Callable[..., Any], key: str, node: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments; `None` if one has a problem."""
        found: list[str] = []
        bound = bind(call, {name: BROKEN if is_broken(value) else value for name, value in node.items()}, key, found)
        self.problems += [problem + _where_it_is(key, problem) for problem in found]
        return None if found or is_broken(dict(node)) else bound

    def _made(self, call: Callable[..., Any], key: str, arguments: Mapping[str, Any], node: Mapping[str, Any]) -> Any:
        """What the call returns; what it raises is a problem of the config."""
        if missing := sorted(getattr(call, "__abstractmethods__", ())):
            self.problems.append(
                f"{key}._target_={node['_target_']}: lacks {', '.join(missing)}, which every {key} defines"
            )
            return None
        try:
            return call(**arguments)
        except ConfigError as error:
            self.problems += [self._placed(key, problem, node) for problem in error.problems]
        except Exception as error:
            self.problems.append(self._placed(key, str(error) or type(error).__name__, {}))
        return None

    def _placed(self, key: str, problem: str, node: Mapping[str, Any]) -> str:
        """The problem with the key that it is about: where a value only refers to another key, that is the one that was given."""
        if begins_with_path(problem, node.get("path")):
            return f"{key}.path={problem}"
        if not problem.startswith(f"{key}."):
            return f"{key}: {problem}"
        name, equals, rest = problem.removeprefix(f"{key}.").partition("=")
        reference = REFERENCE.fullmatch(str((self.raw.get(key) or {}).get(name)))
        return f"{reference[1]}={rest}" if equals and reference else problem


def begins_with_path(problem: str, path: Any) -> bool:
    """Whether a problem begins with this path, or with one of these paths."""
    return any(problem.startswith(f"{each}: ") for each in (path if isinstance(path, list) else [path]))


def arguments_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """All of a node but its `_target_`."""
    return {name: value for name, value in node.items() if name != "_target_"}


def own_problems(loader: Callable[..., Any], arguments: Mapping[str, Any], *, here: bool) -> list[str]:
    """What a loader's own check finds: the function `<loader>_problems` beside it in its module, if there is one.

    It is given whether this process will call the loader, and then the loader's arguments by name. It returns one line for each problem.
    """
    name = getattr(loader, "__name__", "")
    own = getattr(sys.modules.get(loader.__module__), f"{name}_problems", None)
    if not callable(own) or loader.__qualname__ != name:
        return []
    try:
        return [str(problem) for problem in own(here, **arguments)]
    except Exception as error:
        return [f"model: {loader.__module__}.{name}_problems fails: {type(error).__name__}: {error}"]


def _takes(call: Callable[..., Any], name: str) -> bool:
    found: list[str] = []
    bind(call, {name: None}, "", found)
    return not any(problem.startswith(f"{name}: no such key") for problem in found)


def _where_it_is(group: str, problem: str) -> str:
    """Which other options of a group have the key that this one does not have."""
    name = re.match(rf"{group}\.(\w+): no such key", problem)
    if name is None or not (CONF / group).is_dir() or "did you mean" in problem:
        return ""
    having = [f"{group}={file.stem}" for file in options(CONF / group) if name[1] in keys(file)]
    return f"; {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""


def _explained(call: Callable[..., Any], target: str, problems: list[str]) -> list[str]:
    """Problems of a loader's arguments, where they have one reason that says more."""
    if problems and _is_predict_function(call):
        (name,) = inspect.signature(call).parameters
        return [
            f"model._target_={target}: looks like a function that predicts ({name} -> predictions); "
            "a loader is a function that returns such a function: def load(): return predict",
            *(problem for problem in problems if not problem.startswith(f"model.{name}: is required")),
        ]
    return _of_another_option(target, problems)


def _is_predict_function(call: Callable[..., Any]) -> bool:
    """Whether it takes one argument, which is called as a batch of rows is."""
    try:
        parameters = inspect.signature(call).parameters
    except (ValueError, TypeError):
        return False
    return len(parameters) == 1 and next(iter(parameters)) in BATCH_NAMES


def _of_another_option(target: str, problems: list[str]) -> list[str]:
    """One problem for all keys of a chosen option that the loader which replaced its own does not take."""
    option = CONF / "model" / f"{chosen('model')}.yaml"
    if not option.is_file():
        return problems
    own = keys(option)
    alien = tuple(f"model.{name}: no such key" for name in own)
    rest = [problem for problem in problems if not problem.startswith(alien)]
    if own["_target_"] == target or rest == problems:
        return problems
    return [
        f"model={option.stem}, but model._target_={target} is set as well, which wins and does not take the option's keys; "
        "leave out one of them (with a loader of your own: model=custom)",
        *rest,
    ]


def _leaves(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}")]
    return [(key, node)]
