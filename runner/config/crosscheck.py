"""Checks between the parts of a config: what each part alone allows may still make no sense together."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from runner.config import allowed
from runner.config.check import BROKEN, is_missing, nearest
from runner.config.targets import refusal
from runner.storage.locations import absolute, install, is_local, unfit_for_parts, unusable
from runner.words.credentials import HIDDEN
from runner.words.secrets import holds_password, shown

ACTORS = "runner.modes.actors.Actors"
INLINE = "runner.modes.inline.Inline"
WITHOUT_RAY = (INLINE, "runner.modes.processes.Processes")
PACKAGES = {  # a built-in loader's packages, each with the paths that it is needed for
    "models.sklearn.load": {"sklearn": ".*", "joblib": ".*", "skops": r".*\.skops"},
    "models.torch.load": {"torch": ".*", "safetensors": r".*\.safetensors"},
}
DAY = re.compile(r"(?:^|/)\w+=(\d{4}-\d\d-\d\d)(?=/|$)")
HUB = re.compile(r"[\w.-]+/[\w-]+(\.\d[\w.-]*)?")
OF_RAY = re.compile(r"/session_[^/]+/runtime_resources/working_dir_files/")
COLUMNS = (("source", "columns"), ("predict", "columns"), ("sink", "keep_columns"))
PATHS = (("source", "path"), ("sink", "path"), ("model", "path"), ("predict", "artifacts"))


def check(values: Mapping[str, Any], problems: list[str], *, sweep: bool) -> list[str]:
    """Look at what belongs together.

    Args:
        values: The config as plain data.
        problems: Collects one line per problem.
        sweep: Whether it is one job of several: then a key may have no effect in some.

    Returns:
        Notes for people.
    """
    problems += _columns(values)
    problems += _rename(values)
    problems += _output_schema(_at(values, "predict", "output_schema"))
    problems += _empty_paths(values)
    problems += _storages(values)
    problems += _passwords(values)
    problems += _packages(values) or _other_models(values) or _callables(values)
    problems += _not_allowed(values)
    _bad_rows(_at(values, "errors", "max_bad_rows"), problems)
    problems += _sink_place(values) or _sink_in_source(values)
    problems += _no_days(values)
    problems += _below_ray(values)
    notes, wrong = _num_actors(values, sweep=sweep)
    problems += _pool_bounds(values)
    gpus = _num_gpus(values)
    problems += [*wrong, *([] if sweep else gpus)]
    return [*notes, *(gpus if sweep else []), *_without_effect(values)]


def needed(values: Mapping[str, Any]) -> dict[str, str] | None:
    """The columns that are read, each with the key that asks for it; `None` for all, or where a key is wrong."""
    asked, kept = _at(values, "predict", "columns"), _at(values, "sink", "keep_columns")
    if not _are_texts(asked):
        return None
    kept = kept if _are_texts(kept) else []
    return {**dict.fromkeys(kept, "sink.keep_columns"), **dict.fromkeys(asked, "predict.columns")}


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _at(values: Mapping[str, Any], group: str, name: str) -> Any:
    node = values.get(group)
    return node.get(name) if isinstance(node, dict) else None


def _columns(values: Mapping[str, Any]) -> list[str]:
    found = []
    for group, name in COLUMNS:
        names = _at(values, group, name)
        counts = Counter(map(str, names)) if isinstance(names, list) else {}
        if twice := [one for one, count in counts.items() if count > 1]:
            found.append(f"{group}.{name}: {', '.join(twice)} is there twice")
    if _at(values, "predict", "columns") == []:
        found.append("predict.columns=[]: expected at least one column, or null for all")
    return [*found, *_model_columns(_at(values, "model", "columns"), _renamed(values))]


def _renamed(values: Mapping[str, Any]) -> Any:
    """`predict.columns` under the names that the model gets."""
    columns, rename = _at(values, "predict", "columns"), _at(values, "predict", "rename")
    known = _are_texts(columns) and isinstance(rename, dict)
    return [rename.get(name, name) for name in columns] if known else columns


def _rename(values: Mapping[str, Any]) -> list[str]:
    """`predict.rename` is from names of the input, each to a name of its own."""
    columns, rename = _at(values, "predict", "columns"), _at(values, "predict", "rename")
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
    """A loader's own `columns` are taken from the batches that `predict.columns` make."""
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


def _passwords(values: Mapping[str, Any]) -> list[str]:
    """Paths are recorded with every shard, wherever their password came from."""
    keys = [f"{group}.{name}" for group, name in PATHS if any(map(holds_password, _listed(_at(values, group, name))))]
    return [
        f"{key}={HIDDEN}: a path with a password in it would be recorded; give it in {key.partition('.')[0]}.storage_options"
        for key in keys
    ]


def _empty_paths(values: Mapping[str, Any]) -> list[str]:
    """An empty path would be the working directory."""
    return [
        f"{group}.{name}='': expected a path or URI; is a variable unset?"
        for group, name in PATHS
        if any(isinstance(each, str) and not each.strip() for each in _listed(_at(values, group, name)))
    ]


def _storages(values: Mapping[str, Any]) -> list[str]:
    """Storage of an unknown protocol, or whose package is not installed."""
    paths = [(group, uri) for group in ("source", "sink") for uri in _listed(_at(values, group, "path"))]
    return [
        f"{group}.path={wrong}"
        for group, uri in paths
        if isinstance(uri, str) and not is_local(uri) and not holds_password(uri) and (wrong := unusable(uri))
    ]


def _bad_rows(value: Any, problems: list[str]) -> None:
    """A budget is a count or a fraction; what the type alone says of it is replaced."""
    if value is None or value is BROKEN or is_missing(value):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value >= 0 and (value <= 1 or isinstance(value, int)):
        return
    problems[:] = [problem for problem in problems if not problem.startswith("errors.max_bad_rows=")]
    problems.append(f"{shown('errors.max_bad_rows', value)}: expected a count (5) or a fraction (0.01)")


def _packages(values: Mapping[str, Any]) -> list[str]:
    """What a built-in loader needs to run, where this process is the one that runs it."""
    target, path = _at(values, "model", "_target_"), _at(values, "model", "path")
    if not isinstance(target, str) or target not in PACKAGES:
        return []
    extra, needs = target.split(".")[1], PACKAGES[target]
    names = [name for name, ending in needs.items() if re.fullmatch(ending, path if isinstance(path, str) else "")]
    absent = [] if _at(values, "predict", "load_on") == "worker" else [name for name in names if not find_spec(name)]
    found = [f"model={extra} needs {', '.join(absent)}: {install(extra)}"] if absent else []
    if extra == "torch" and path is None and _at(values, "model", "module") is None:
        found.append("model=torch: model.path, model.module or both are required")
    return found


def _other_models(values: Mapping[str, Any]) -> list[str]:
    """A `model.path` that is no file of the chosen kind, by its name."""
    target, path = _at(values, "model", "_target_"), _at(values, "model", "path")
    if target not in PACKAGES or not isinstance(path, str):
        return []
    own = "a loader of your own reads it: model=custom model._target_=package.module.load"
    if path.endswith(".py"):
        module = ".".join(PurePath(path).with_suffix("").parts).lstrip("./")
        return [
            f"model.path={path}: is code, not a fitted model; model=custom model._target_={module}.load calls its load()"
        ]
    if path.endswith((".json", ".ubj", ".onnx", ".pb", ".gguf", ".keras", ".h5")):
        return [f"model.path={path}: is no file that model={str(target).split('.')[1]} reads; {own}"]
    if HUB.fullmatch(path) and not Path(path).exists() and not Path(path).parent.is_dir():
        return [f"model.path={path}: there is no such file; if it names a model on a hub, {own}"]
    return []


def _callables(values: Mapping[str, Any]) -> list[str]:
    """What the torch loader calls by name is looked for before anything is loaded, where this process is to load it."""
    if _at(values, "model", "_target_") != "models.torch.load" or _at(values, "predict", "load_on") == "worker":
        return []
    given = {name: _at(values, "model", name) for name in ("collate", "module")}
    return [
        f"model.{name}={path}: {refused}"
        for name, path in given.items()
        if isinstance(path, str) and (refused := refusal(path))
    ]


def _not_allowed(values: Mapping[str, Any]) -> list[str]:
    """What is code, or brings code, and is no target: refused by a closed list that does not name it."""
    asked = [
        (allowed.RUNTIME_ENV, "ray.runtime_env", bool(_at(values, "ray", "runtime_env"))),
        (allowed.ADDRESS, "ray.address", _at(values, "ray", "address") not in (None, "local", "auto")),
        (allowed.PICKLE, "model.path", _is_pickle(values)),
    ]
    return [
        f"{key}: {what}{allowed.told()}; add {switch} to the list to allow it"
        for switch, key, there in asked
        if there and allowed.refuses(switch)
        for what in ["a file that executes code when it is read " if switch == allowed.PICKLE else ""]
    ]


def _is_pickle(values: Mapping[str, Any]) -> bool:
    target, path = _at(values, "model", "_target_"), _at(values, "model", "path")
    if target == "models.sklearn.load":
        return isinstance(path, str) and (not path.endswith(".skops") or bool(_at(values, "model", "trusted")))
    return target == "models.torch.load" and bool(_at(values, "model", "trust_pickle"))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sink_place(values: Mapping[str, Any]) -> list[str]:
    """A place where parts would be lost, or not be found again."""
    sink = _at(values, "sink", "path")
    wrong = unfit_for_parts(sink) if isinstance(sink, str) and not is_missing(sink) else None
    return [f"{shown('sink.path', sink)}: {wrong}"] if wrong else []


def _sink_in_source(values: Mapping[str, Any]) -> list[str]:
    """Parts below an input folder would be input the next time; below a hidden folder they are not listed."""
    sink = _at(values, "sink", "path")
    if not isinstance(sink, str):
        return []
    place = _place(sink)
    for entry in _listed(_at(values, "source", "path")):
        if isinstance(entry, str) and place.startswith(f"{_place(entry)}/"):
            below = place.removeprefix(f"{_place(entry)}/")
            if not any(segment.startswith(("_", ".")) for segment in below.split("/")):
                return [
                    f"sink.path={sink}: lies in source.path={entry}, so the parts would be input the next time; write elsewhere"
                ]
    return []


def _no_days(values: Mapping[str, Any]) -> list[str]:
    """Folders named by a day that is in no calendar: nothing will ever lie there, so an empty input must not be a success."""
    return [
        f"{group}.path={uri}: {day} is no day of the calendar"
        for group in ("source", "sink")
        for uri in _listed(_at(values, group, "path"))
        for day in (DAY.findall(uri) if isinstance(uri, str) else ())
        if not _is_day(day)
    ]


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _below_ray(values: Mapping[str, Any]) -> list[str]:
    """The working directory of a submitted Ray job is a copy that Ray deletes."""
    sink = _at(values, "sink", "path")
    if not isinstance(sink, str) or not is_local(sink) or sink.startswith(("/", "file:", "~")):
        return []
    return [
        f"sink.path={sink}: is relative, and the working directory ({Path.cwd()}) is a copy that Ray deletes; "
        "give a URI, or the full path of a folder that all nodes share"
        for _ in OF_RAY.findall(absolute(sink))
    ]


def _place(path: str) -> str:
    """One spelling of a path, links followed."""
    return (os.path.realpath(absolute(path)) if is_local(path) else absolute(path)).rstrip("/")


def _num_gpus(values: Mapping[str, Any]) -> list[str]:
    """`resources.num_gpus` where nobody hands out GPUs."""
    given, target = _at(values, "resources", "num_gpus"), _at(values, "mode", "_target_")
    if target not in WITHOUT_RAY or not isinstance(given, int | float) or isinstance(given, bool) or not given > 0:
        return []
    mode = str(target).split(".")[2]
    return [f"resources.num_gpus={given}: has no effect with mode={mode}; take mode=tasks or mode=actors, or 0"]


def _without_effect(values: Mapping[str, Any]) -> list[str]:
    """What a preset for a cluster may well say, and this machine's own modes cannot do: only notes, so that it can be debugged."""
    target = _at(values, "mode", "_target_")
    if target not in WITHOUT_RAY:
        return []
    asked = [("resources", "memory"), ("resources", "resources"), ("resources", "accelerator_type"),
             ("resources", "scheduling_strategy"), *([("errors", "shard_timeout")] if target == INLINE else [])]  # fmt: skip
    mode = str(target).split(".")[2]
    given = [(f"{group}.{name}", value) for group, name in asked if (value := _at(values, group, name))]
    return [f"{key}={value}: has no effect with mode={mode}" for key, value in given]


def _num_actors(values: Mapping[str, Any], *, sweep: bool) -> tuple[list[str], list[str]]:
    """`num_actors` where nothing asks for it: a problem, but in a sweep over modes only a note."""
    given, target = values.get("num_actors"), _at(values, "mode", "_target_")
    if not isinstance(given, int) or given < 1 or not isinstance(target, str) or not target.startswith("runner.modes."):
        return [], []
    if target == ACTORS:
        size = _at(values, "mode", "size")
        return [], [] if size == given else [
            f"num_actors={given}: has no effect beside mode.size={size}; give one of them"
        ]
    mode = target.split(".")[2]
    if sweep:
        return [f"num_actors={given}: no effect with mode={mode}"], []
    return [], [f"num_actors={given}: has no effect with mode={mode}; take mode=actors, or leave num_actors out"]


def _pool_bounds(values: Mapping[str, Any]) -> list[str]:
    """`mode.min_size` and `mode.max_size`, beside each other and beside a fixed size."""
    if _at(values, "mode", "_target_") != ACTORS:
        return []
    bounds = {f"mode.{name}": _at(values, "mode", name) for name in ("min_size", "max_size")}
    given = {key: bound for key, bound in bounds.items() if isinstance(bound, int)}
    size = _at(values, "mode", "size")
    if given and isinstance(size, int):
        key = "num_actors" if size == values.get("num_actors") else "mode.size"
        return [
            f"{key}={size}: is a fixed size, which makes no sense beside {' and '.join(given)}; give one or the other"
        ]
    if len(given) == 2 and given["mode.min_size"] > given["mode.max_size"]:
        fewest, most = given.values()
        return [f"mode.min_size={fewest}: is more than mode.max_size={most}"]
    return []
