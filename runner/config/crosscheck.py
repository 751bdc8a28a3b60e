"""Checks between the parts of a config: what each part alone allows may still make no sense together.

What a part alone can tell is wrong, it tells itself: a source, sink or mode when it is made, a loader by its `<loader>_problems`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from runner.config import allowed, places
from runner.config.check import BROKEN, at, is_missing, nearest
from runner.config.composition import chosen, option_file
from runner.config.options import keys
from runner.config.parts import Parts
from runner.storage.locations import why_not_faster
from runner.words.secrets import shown

ENDS = ("source", "sink")
COLUMNS = (("source", "columns"), ("predict", "columns"), ("sink", "keep_columns"))
WANTED = "resources.num_gpus"  # nobody asks for GPUs in vain: that it has no effect is a problem, not a note


def check_together(parts: Parts, *, sweep: bool) -> list[str]:
    """Examine what belongs together; problems are added to those of the parts.

    Args:
        parts: Made, as far as they have no problems of their own.
        sweep: Whether the job is one of several: then a key may have no effect in some.

    Returns:
        Notes for people.
    """
    values, problems = parts.values, parts.problems
    problems += _columns(values)
    problems += _rename(values)
    problems += _output_schema(at(values, "predict", "output_schema"))
    problems += places.problems(values)
    problems += _not_allowed(values)
    _bad_rows(at(values, "errors", "max_bad_rows"), problems)
    notes, wrong = _num_actors(parts, sweep=sweep)
    idle = _without_effect(parts)
    gpus = [each for each in idle if each.startswith(f"{WANTED}=")]
    asked = [f"{each}; take mode=tasks or mode=actors, or 0" for each in gpus]
    problems += [*wrong, *([] if sweep else asked)]
    return [*notes, *(asked if sweep else []), *(each for each in idle if each not in gpus), *slower_clients(values)]


def slower_clients(values: Mapping[str, Any]) -> list[str]:
    """Return notes on storage that fsspec's own client serves, although there is a faster one."""
    given = ((key, at(values, key, "path"), at(values, key, "storage_options") or {}) for key in ENDS)
    paths = ((key, next(iter(path), "") if isinstance(path, list) else path, options) for key, path, options in given)
    return [
        f"{key}.path={path}: fsspec's own client serves it, which takes several times the CPU: {reason}"
        for key, path, options in paths
        if isinstance(path, str) and isinstance(options, Mapping) and (reason := why_not_faster(path, options))
    ]


def needed(values: Mapping[str, Any], columns_key: str) -> dict[str, str] | None:
    """The columns that are read, each with the key that asks for it; `None` for all, or where a key is wrong.

    Args:
        values: The config as plain data.
        columns_key: What asks for those of `predict.columns`.
    """
    asked, kept = at(values, "predict", "columns"), at(values, "sink", "keep_columns")
    if not _are_texts(asked):
        return None
    kept = kept if _are_texts(kept) else []
    return {**dict.fromkeys(kept, "sink.keep_columns"), **dict.fromkeys(asked, columns_key)}


# ---------------------------------------------------------------- columns


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _columns(values: Mapping[str, Any]) -> list[str]:
    """Columns that are named twice, or not at all."""
    found = []
    for group, name in COLUMNS:
        names = at(values, group, name)
        counts = Counter(map(str, names)) if isinstance(names, list) else {}
        if twice := [one for one, count in counts.items() if count > 1]:
            found.append(f"{group}.{name}: {', '.join(twice)} is there twice")
    if at(values, "predict", "columns") == []:
        found.append("predict.columns=[]: expected at least one column, or null for all")
    return [*found, *_model_columns(at(values, "model", "columns"), _renamed(values))]


def _renamed(values: Mapping[str, Any]) -> Any:
    """`predict.columns` under the names that the model gets."""
    columns, rename = at(values, "predict", "columns"), at(values, "predict", "rename")
    known = _are_texts(columns) and isinstance(rename, dict)
    return [rename.get(name, name) for name in columns] if known else columns


def _rename(values: Mapping[str, Any]) -> list[str]:
    """`predict.rename` renames columns of the input, each to a name of its own."""
    columns, rename = at(values, "predict", "columns"), at(values, "predict", "rename")
    if not isinstance(rename, dict):
        return []
    absent = [name for name in rename if isinstance(columns, list) and name not in columns]
    twice = [name for name, count in Counter(map(str, rename.values())).items() if count > 1]
    return [
        *(f"predict.rename.{name}: is not among predict.columns{nearest(name, columns)}; "
          "give there the names that the input has" for name in absent),
        *(f"predict.rename: several columns would become {name!r}" for name in twice),
    ]  # fmt: skip


def _model_columns(wanted: Any, given: Any) -> list[str]:
    """A loader's own `columns` are taken from the batches, whose columns are those of `predict.columns`."""
    if not isinstance(wanted, list) or not isinstance(given, list):
        return []
    absent = [str(name) for name in wanted if name not in given]
    return [
        f"model.columns: {name} is not among predict.columns{nearest(name, list(map(str, given)))}" for name in absent
    ]


def _output_schema(declared: Any) -> list[str]:
    if not isinstance(declared, dict) or not all(isinstance(kind, str) for kind in declared.values()):
        return []
    from runner.arrow.schemas import parse_schema

    try:
        parse_schema(declared)
    except ValueError as wrong:
        return [f"predict.output_schema.{wrong}"]
    return []


# ---------------------------------------------------------------- what is allowed


def _not_allowed(values: Mapping[str, Any]) -> list[str]:
    """What brings code and is no target: a closed list that does not name it refuses it."""
    asked = [
        (allowed.RUNTIME_ENV, "ray.runtime_env", bool(at(values, "ray", "runtime_env"))),
        (allowed.ADDRESS, "ray.address", at(values, "ray", "address") not in (None, "local", "auto")),
        *((allowed.DRIVER, f"{end}.driver", bool(at(values, end, "driver"))) for end in ENDS),
    ]
    refused = [
        f"{key}: {allowed.refusal()}; add {switch} to the list to allow it"
        for switch, key, there in asked
        if there and allowed.refuses(switch)
    ]
    return refused + [problem for end in ENDS for problem in _classes_of_catalog(end, at(values, end, "catalog"))]


def _classes_of_catalog(end: str, catalog: Any) -> list[str]:
    """The properties of a catalog, such as `py-io-impl`, that have pyiceberg import a class which the list does not admit."""
    classes = (
        {name: value for name, value in catalog.items() if str(name).endswith("impl")}
        if isinstance(catalog, Mapping)
        else {}
    )
    return [
        f"{end}.catalog.{name}={value}: {allowed.refusal()}"
        for name, value in classes.items()
        if not allowed.admits(str(value))
    ]


def _bad_rows(value: Any, problems: list[str]) -> None:
    """A budget is a count or a fraction; this replaces what its type alone makes a problem."""
    if value is None or value is BROKEN or is_missing(value):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value >= 0 and (value <= 1 or isinstance(value, int)):
        return
    problems[:] = [problem for problem in problems if not problem.startswith("errors.max_bad_rows=")]
    problems.append(f"{shown('errors.max_bad_rows', value)}: expected a count (5) or a fraction (0.01)")


# ---------------------------------------------------------------- the mode, and what it has no use for


def _mode_name(values: Mapping[str, Any]) -> str:
    """The mode as it was chosen."""
    option = chosen("mode")
    return f"mode={option}" if option not in ("", "custom") else f"mode._target_={at(values, 'mode', '_target_')}"


def _without_effect(parts: Parts) -> list[str]:
    """Keys that are set and that the mode ignores.

    A preset for a cluster may well ask for memory, and this machine's own modes cannot reserve it: the preset can be debugged here.
    """
    ignored = parts.made["mode"].ignored() if "mode" in parts.made else ()
    name = _mode_name(parts.values)
    return [
        f"{key}={at(parts.values, *key.split('.', 1))}: has no effect with {name}"
        for key in ignored
        if _is_set(parts, *key.split(".", 1))
    ]


def _is_set(parts: Parts, group: str, name: str) -> bool:
    """Whether a key has a right value that is not its default."""
    made = parts.made.get(group)
    return made is not None and getattr(made, name, None) != getattr(type(made)(), name, None)


def _num_actors(parts: Parts, *, sweep: bool) -> tuple[list[str], list[str]]:
    """Notes and problems of a `num_actors` that no key of the mode refers to; in a sweep over modes it is only noted."""
    given, mode, raw = parts.values.get("num_actors"), parts.values.get("mode"), parts.raw.get("mode")
    if not isinstance(given, int) or given < 1 or not isinstance(mode, dict) or not isinstance(raw, dict):
        return [], []
    if not isinstance(mode.get("_target_"), str) or any(_refers(raw[name], mode.get(name), given) for name in raw):
        return [], []
    option = option_file("mode")
    of_option = [name for name, value in keys(option).items() if value == "${num_actors}"] if option else []
    if beside := [name for name in of_option if name in mode]:
        (name,) = beside
        return [], [f"num_actors={given}: has no effect beside mode.{name}={mode[name]}; give one of them"]
    name = _mode_name(parts.values)
    if sweep:
        return [f"num_actors={given}: no effect with {name}"], []
    return [], [f"num_actors={given}: has no effect with {name}; take mode=actors, or leave num_actors out"]


def _refers(text: Any, value: Any, num_actors: int) -> bool:
    """Whether a value of the mode, as it was written, is a reference to `num_actors`, be it through other keys."""
    return "num_actors" in str(text) or ("${" in str(text) and bool(value == num_actors))
