"""From a config to a checked `Job`: every problem is found before a model is loaded, and all are told together."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from hydra.core.config_store import ConfigStore
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from runner.check import BROKEN, MISSING, bind, nearest, required
from runner.errors import ConfigError
from runner.job import Job, needed_columns
from runner.secrets import literals, redacted
from runner.targets import Refused, code_of, locate
from runner.types import (
    Auto,
    ByteSize,
    Errors,
    Loader,
    Positive,
    Predict,
    Predictor,
    RayOptions,
    Resources,
    Source,
)

GROUPS = ("source", "model", "mode", "resources", "errors", "sink", "job")
OPEN = ("vars", "source", "model", "mode", "resources", "errors", "sink", "predict", "ray")
Action = Literal["run", "plan"]


@dataclass(frozen=True)
class Top:
    """The keys that belong to no group."""

    action: Action = "run"
    num_actors: Positive | Auto = "auto"
    batch_size: Positive = 65_536
    shard_bytes: ByteSize | Auto | None = "auto"


@dataclass(frozen=True)
class Checked:
    """A job, and what is to be done with it."""

    job: Job
    action: Action
    notes: list[str]


def register() -> None:
    """Let the open nodes take keys of their own without a `+`; our own check knows which are right."""
    node = {name: DictConfig({}, flags={"struct": False}) for name in OPEN}
    ConfigStore.instance().store(name="_open", node=node)


def check(
    cfg: DictConfig,
    run_dir: Path,
    *,
    sweep: bool = False,
    model: Predictor | None = None,
    argv: list[str] | None = None,
    problems: list[str] | None = None,
) -> Checked:
    """Build the job that a composed config describes.

    Args:
        cfg: Composed, unresolved.
        run_dir: Where output goes without a `sink.path`.
        sweep: Whether it is one job of several: then a key may have no effect in some.
        model: A predictor to use in place of the config's model.
        argv: The command line, for the command that continues the job.
        problems: Found already, to be told together with what is found here.

    Raises:
        ConfigError: With every problem.
    """
    found = list(problems or [])
    raw = OmegaConf.to_container(cfg, resolve=False)
    found += [
        f"{key}: a credential does not belong in a config; give ${{oc.env:NAME}} and set NAME in the environment"
        for key in literals(raw)
    ]
    values = _resolved(cfg, "", found)
    parts = _Parts(values, found)
    top = parts.plain(Top, {field.name for field in fields(Top)})
    job = _assemble(parts, top, run_dir, model)
    notes = _num_actors_note(values, found, sweep=sweep)
    if found:
        raise ConfigError([*found, *parts.data_problems()])
    assert job is not None
    assert top is not None
    given = parts.sink_path
    command = _command(argv, given, job) if argv is not None else None
    from dataclasses import replace

    return Checked(replace(job, config=redacted(raw), sink_path=given, command=command), top.action, notes)


def _assemble(parts: _Parts, top: Top | None, run_dir: Path, model: Predictor | None) -> Job | None:
    """All the parts, each checked whether or not another failed."""
    predict, resources = parts.options(Predict, "predict"), parts.options(Resources, "resources")
    errors, ray = parts.options(Errors, "errors"), parts.options(RayOptions, "ray")
    source, mode = parts.component("source"), parts.component("mode")
    sink = parts.component("sink", path=str(run_dir / "predictions"))
    loader = parts.loader() if model is None else _ready(model)
    _check_predict(predict, parts.problems)
    if parts.problems or top is None or loader is None:
        return None
    return Job(source, loader, mode, sink, predict, resources, errors, ray, top.batch_size, top.shard_bytes)


def _check_predict(predict: Predict | None, problems: list[str]) -> None:
    if predict is None:
        return
    if predict.columns == []:
        problems.append("predict.columns=[]: expected at least one column, or null for all")
    if predict.output_schema:
        from runner.batches import parse_schema

        try:
            parse_schema(predict.output_schema)
        except ValueError as wrong:
            problems.append(f"predict.output_schema.{wrong}")


class _Parts:
    """The config's nodes, turned into values one by one; problems are collected."""

    def __init__(self, values: Mapping[str, Any], problems: list[str]) -> None:
        self.values, self.problems = values, problems
        self.sink_path: str | None = None
        self._source: Source | None = None
        for key, value in _leaves(values.get("vars", {}), "vars"):
            if value == MISSING:
                problems.append(required(key))

    def plain(self, kind: Any, names: set[str]) -> Any:
        """The top-level keys."""
        found: list[str] = []
        bound = bind(kind, {name: value for name, value in self.values.items() if name in names}, "", found)
        self.problems += [problem.removeprefix(".") for problem in found]
        return None if found else kind(**bound)

    def options(self, kind: Any, key: str) -> Any:
        """A frozen dataclass of options."""
        node = self._mapping(key)
        before = len(self.problems)
        bound = bind(kind, node, key, self.problems)
        return kind(**bound) if len(self.problems) == before else None

    def component(self, key: str, **defaults: Any) -> Any:
        """What the node's `_target_` makes of the rest of the node."""
        before = len(self.problems)
        node = self._mapping(key)
        if key == "sink":
            self.sink_path = node.get("path") if isinstance(node.get("path"), str) else None
        call, arguments = self._bound(
            key, {**node, **{name: value for name, value in defaults.items() if node.get(name) is None}}
        )
        if call is None or len(self.problems) > before:
            return None
        try:
            built = call(**arguments)
        except Exception as error:
            self.problems.append(f"{key}: {error}")
            return None
        if key == "source":
            self._source = built
        return built

    def loader(self) -> Loader | None:
        """The model's loader, bound to its arguments and not called."""
        before = len(self.problems)
        call, arguments = self._bound("model", self._mapping("model"))
        if call is None or len(self.problems) > before:
            return None
        return Loader(
            functools.partial(call, **arguments),
            str(self.values["model"]["_target_"]),
            arguments,
            code_of(call),
        )

    def _mapping(self, key: str) -> dict[str, Any]:
        node = self.values.get(key) or {}
        if isinstance(node, dict):
            return node
        self.problems.append(f"{key}={node!r}: expected a mapping of its keys")
        return {}

    def _bound(self, key: str, node: Mapping[str, Any]) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
        target = node.get("_target_")
        if target is BROKEN:
            return None, {}
        if not isinstance(target, str) or target == MISSING:
            self.problems.append(
                f"{key}._target_: is required; give {key}._target_=pkg.module.name, or choose a built-in: {key}=..."
            )
            return None, {}
        try:
            call = locate(target)
        except Refused as refused:
            self.problems.append(f"{key}._target_={target}: {refused}")
            return None, {}
        return call, bind(call, {name: value for name, value in node.items() if name != "_target_"}, key, self.problems)

    def data_problems(self) -> list[str]:
        """What can be said of the data although the config has problems: no files, or columns that are not there."""
        source, predict = self._source, self.values.get("predict") or {}
        if source is None:
            return []
        columns, kept = predict.get("columns"), (self.values.get("sink") or {}).get("keep_columns")
        try:
            files = source.files()
            source.inspect(files[:1], _needed(columns, kept))
        except ConfigError as error:
            return error.problems
        except Exception:  # the config's own problems are the ones to tell now
            return []
        return []


def _needed(columns: Any, kept: Any) -> dict[str, str] | None:
    if not isinstance(columns, list):
        return None
    kept = kept if isinstance(kept, list) else []
    return {
        **dict.fromkeys(map(str, kept), "sink.keep_columns"),
        **dict.fromkeys(map(str, columns), "predict.columns"),
    }


def check_data(job: Job) -> None:
    """Look at the input as far as one footer tells, for a job that is not run yet.

    Raises:
        ConfigError: No files, or columns that are not there.
    """
    files = job.source.files()
    job.source.inspect(files[:1], needed_columns(job))


def _ready(predictor: Predictor) -> Loader:
    """A predictor given in Python, as a loader."""
    name = f"{getattr(predictor, '__module__', '')}.{getattr(predictor, '__qualname__', type(predictor).__qualname__)}"
    code = code_of(predictor if hasattr(predictor, "__code__") else type(predictor))
    return Loader(functools.partial(_itself, predictor), name, {}, code)


def _itself(predictor: Predictor) -> Predictor:
    return predictor


def _num_actors_note(values: Mapping[str, Any], problems: list[str], *, sweep: bool) -> list[str]:
    """`num_actors` with a mode that has none: an error, but in a sweep over modes only a note."""
    target = (values.get("mode") or {}).get("_target_") if isinstance(values.get("mode"), dict) else None
    given = values.get("num_actors")
    if (
        given in ("auto", None)
        or not isinstance(target, str)
        or target == "runner.modes.actors.Actors"
        or not target.startswith("runner.modes.")
    ):
        return []
    mode = target.split(".")[2]
    if sweep:
        return [f"num_actors={given}: no effect with mode={mode}"]
    problems.append(f"num_actors={given}: has no effect with mode={mode}; take mode=actors, or leave num_actors out")
    return []


def _command(argv: list[str], sink_path: str | None, job: Job) -> str:
    given = [] if sink_path is not None else [f"sink.path={job.sink.store.root}"]
    return shlex.join(["python", "-m", "runner", *argv, *given])


# ---------------------------------------------------------------- plain data out of OmegaConf


def _resolved(node: Container, key: str, problems: list[str]) -> Any:
    """Plain data, every interpolation resolved; one that cannot be is told, and leaves `BROKEN`."""
    if isinstance(node, ListConfig):
        return [_value(node, i, f"{key}[{i}]", problems) for i in range(len(node))]
    assert isinstance(node, DictConfig)
    return {str(name): _value(node, name, _joined(key, str(name)), problems) for name in node}


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _value(parent: Any, name: Any, key: str, problems: list[str]) -> Any:
    if OmegaConf.is_missing(parent, name):
        return MISSING
    try:
        value = parent[name]
    except InterpolationToMissingValueError:
        return BROKEN  # the missing value itself is told
    except OmegaConfBaseException as error:
        problems.append(f"{key}: {_told(error)}")
        return BROKEN
    return _resolved(value, key, problems) if isinstance(value, Container) and not value._is_none() else value


def _told(error: Exception) -> str:
    first = str(error).splitlines()[0]
    return f"{first}; set that environment variable" if "Environment variable" in first else first


def _leaves(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}")]
    return [(key, node)]


def unknown_keys(overrides: list[str]) -> tuple[list[str], list[str]]:
    """Overrides without those that start with a key that does not exist, and a problem for each of these."""
    known = (*GROUPS, *(field.name for field in fields(Top)), "vars", "predict", "ray", "hydra")
    kept, problems = [], []
    for override in overrides:
        name = override.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0].partition("/")[0]
        if name in known or override.startswith(("+", "~")) or "=" not in override:
            kept.append(override)
        else:
            problems.append(f"{override.partition('=')[0]}: no such key{nearest(name, list(known[:-1]))}")
    return kept, problems
