"""From a config to a checked `Job`: every problem is found before a model is loaded, and all are told together."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from runner.config import allowed, crosscheck
from runner.config.check import BROKEN, bind, is_missing, nearest, required
from runner.config.composition import task_overrides
from runner.config.foreign import NOT_ROWS, made_of
from runner.config.help import CONF
from runner.config.overrides import unknown
from runner.config.resolve import is_broken, resolved
from runner.config.targets import Refused, a_kind, locate
from runner.driver.job import Job
from runner.driver.survey import needed_columns
from runner.errors import ConfigError
from runner.fingerprint.fields import ARTIFACT, FIELDS, source_settings
from runner.fingerprint.ingredients import of_loader, of_predictor
from runner.fingerprint.sealed import environment_references
from runner.storage.locations import absolute
from runner.types import (
    Auto,
    ByteSize,
    Errors,
    Loader,
    Mode,
    Plan,
    Positive,
    Predict,
    Predictor,
    RayOptions,
    Resources,
    Sink,
    Source,
    Verify,
)
from runner.words.secrets import holds_password, learn, learn_environment, literals, redacted, secret_values, shown

Action = Literal["run", "plan", "verify"]
SEAMS: dict[str, Any] = {"source": Source, "mode": Mode, "sink": Sink}


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
    plan: Plan
    verify: Verify
    notes: list[str]


@dataclass(frozen=True)
class Known:
    """What is known of a config before it is checked.

    Attributes:
        problems: Found already, to be told together with what is found now.
        broken: Keys whose problem is among these.
        sweep: Whether it is one job of several: then a key may have no effect in some.
        model: A predictor to use in place of the config's model.
        argv: The command line, for the command that continues the job.
    """

    problems: Collection[str] = ()
    broken: Collection[str] = ()
    sweep: bool = False
    model: Predictor | None = None
    argv: list[str] | None = None


def check(cfg: DictConfig, run_dir: Path, known: Known | None = None) -> Checked:
    """Build the job that a composed config describes.

    Args:
        cfg: Composed, unresolved.
        run_dir: Where output goes without a `sink.path`.
        known: What is known of it already.

    Raises:
        ConfigError: With every problem.
    """
    known = known or Known()
    raw = OmegaConf.to_container(cfg, resolve=False)
    found = [*known.problems, *map(_literal, literals(raw)), *_unknown_keys(cfg)]
    found += _lost_presets(raw)
    values = resolved(cfg, known.broken, found)
    learn_environment()
    learn(secret_values(raw, values))
    parts = _Parts(values, found)
    top = parts.options(Top, "")
    plan, verify = parts.options(Plan, "plan"), parts.options(Verify, "verify")
    job = _assemble(parts, top, run_dir, known.model)
    notes = crosscheck.check(values, found, sweep=known.sweep)
    found += _unknown_fields(job, values["source"]) if job is not None else []
    if found or job is None or top is None or plan is None or verify is None:
        raise ConfigError(_once([*found, *parts.data_problems()]))
    command = _command(known.argv, parts.sink_path, job) if known.argv is not None else None
    job = replace(
        job,
        config=redacted(raw),
        references=environment_references(raw, values),
        sink_path=parts.sink_path,
        command=command,
    )
    return Checked(job, top.action, plan, verify, notes)


def _unknown_keys(cfg: DictConfig) -> list[str]:
    """Keys at the top that nobody reads; what a config folder's own group holds may be referred to."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    own = {str(group).partition("/")[0] for group in choices}
    return [problem for key in cfg if (problem := unknown(str(key), own))]


def _unknown_fields(job: Job, source: Mapping[str, Any]) -> list[str]:
    """`sink.accept` of what no fingerprint has: the difference it is meant for would be refused all the same."""
    settings = {**_arguments(source), **source_settings(job.source, job.source_made)}
    options = [f"source.{name}" for name in settings if name not in NOT_ROWS]
    known = list(dict.fromkeys([*FIELDS, *options, *(f"sink.{name}" for name in job.sink.settings())]))
    absent = [name for name in job.sink.accept if name not in known and not name.startswith(ARTIFACT)]
    return [f"sink.accept: there is no field {name!r} of the fingerprint{nearest(name, known)}" for name in absent]


def _lost_presets(raw: Any) -> list[str]:
    """A preset without its package lands below `job`, where nobody looks."""
    lost = raw.get("job") if isinstance(raw, dict) else None
    if not lost:
        return []
    names = _chosen("job")
    if names in ("", "none"):
        return [f"job.{name}: no such key; job chooses a preset, whose keys are given without job" for name in lost]
    return [
        f"job={names}: its first line must be `# @package _global_`; without it its keys land under job.* and do nothing"
    ]


def _chosen(group: str) -> str:
    """The option of a group, or several as they were typed; empty if that cannot be known."""
    if not HydraConfig.initialized():
        return ""
    typed = [each.partition("=")[2] for each in task_overrides(HydraConfig.get()) if each.startswith(f"{group}=")]
    return typed[-1] if typed else str(HydraConfig.get().runtime.choices.get(group) or "")


def _literal(key: str) -> str:
    return f"{key}: a credential does not belong in a config; give ${{oc.env:NAME}} and set NAME in the environment"


def _once(problems: list[str]) -> list[str]:
    """Each problem once: what a reference finds missing is missing where it should be, too."""
    return list({problem.partition("; give ")[0]: problem for problem in reversed(problems)}.values())[::-1]


def _assemble(parts: _Parts, top: Top | None, run_dir: Path, model: Predictor | None) -> Job | None:
    """All the parts, each checked whether or not another failed."""
    predict, resources = parts.options(Predict, "predict"), parts.options(Resources, "resources")
    errors, ray = parts.options(Errors, "errors"), parts.options(RayOptions, "ray")
    source, mode = parts.component("source"), parts.component("mode")
    sink = parts.component("sink", path=str(run_dir / "predictions"))
    loader = parts.loader() if model is None else _ready(model)
    if parts.problems or top is None or loader is None:
        return None
    tolerates = source.tolerant() if errors.on_bad_rows == "quarantine" else source
    job = Job(tolerates, loader, mode, sink, predict, resources, errors, ray, top.batch_size, top.shard_bytes)
    return replace(job, source_made=parts.source_made)


class _Parts:
    """The config's nodes, turned into values one by one; problems are collected."""

    def __init__(self, values: Mapping[str, Any], problems: list[str]) -> None:
        self.values, self.problems = values, problems
        self.sink_path: str | None = None
        self._source: Source | None = None
        self.source_made: Mapping[str, Any] = {}
        problems += [required(key) for key, value in _leaves(self._mapping("vars"), "vars") if is_missing(value)]

    def options(self, kind: Any, key: str) -> Any:
        """A frozen dataclass of options; at the top, of the keys that belong to no group."""
        names = {field.name for field in fields(kind)}
        node = self._mapping(key) if key else {name: self.values[name] for name in names if name in self.values}
        return self._made(kind, key, node)

    def component(self, key: str, **defaults: Any) -> Any:
        """What the node's `_target_` makes of the rest of the node."""
        node = self._mapping(key)
        call = self._target(key, node)
        if call is None:
            return None
        given = node.get("path")
        if key == "sink" and isinstance(given, str | os.PathLike):
            self.sink_path = str(given)
            defaults = {"path": absolute(self.sink_path)}  # workers have a working directory of their own
        usable = given is None or isinstance(given, str | os.PathLike)
        taken = {name: value for name, value in defaults.items() if usable and _takes(call, name)}
        built = self._made(call, key, {**_arguments(node), **taken})
        if built is not None and (lacks := [name for name in _members(SEAMS[key]) if name not in dir(built)]):
            self.problems.append(
                f"{key}._target_={node['_target_']}: made {a_kind(built)}, which lacks {', '.join(lacks)}; "
                f"a class that inherits from runner.types.{SEAMS[key].__name__} has what most need"
            )
            return None
        if key == "source":
            self._source = built
            self.source_made = {} if str(node["_target_"]).startswith("runner.") else made_of(call, node)
        return built

    def loader(self) -> Loader | None:
        """The model's loader, bound to its arguments and not called."""
        node = self._mapping("model")
        call = self._target("model", node)
        told = len(self.problems)
        arguments = self._bound(call, "model", _arguments(node)) if call is not None else None
        if call is None or arguments is None:
            if call is not None:
                self.problems[told:] = _another_target(str(node["_target_"]), self.problems[told:])
            return None
        recorded = {
            name: value if name == "storage_options" else redacted(value, f"model.{name}")
            for name, value in arguments.items()
        }
        listed = functools.partial(allowed.under, allowed.entries, call, **arguments)
        return Loader(
            listed if allowed.closed() else functools.partial(call, **arguments),
            str(node["_target_"]),
            recorded,
            of_loader(call, str(node["_target_"]), arguments),
        )

    def _mapping(self, key: str) -> dict[str, Any]:
        node = self.values.get(key)
        if isinstance(node, dict):
            return node
        if node is not None and node is not BROKEN:
            self.problems.append(f"{shown(key, node)}: expected a mapping, such as {key}.name=value")
        return {}

    def _target(self, key: str, node: Mapping[str, Any]) -> Callable[..., Any] | None:
        if not isinstance(self.values.get(key, {}), dict | None):
            return None  # told
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
        """The arguments, `None` if one has a problem."""
        found: list[str] = []
        bound = bind(call, {name: BROKEN if is_broken(value) else value for name, value in node.items()}, key, found)
        self.problems += [problem + _elsewhere(key, problem) for problem in found]
        return None if found or is_broken(dict(node)) else bound

    def _made(self, call: Callable[..., Any], key: str, node: Mapping[str, Any]) -> Any:
        arguments = self._bound(call, key, node)
        if arguments is None:
            return None
        try:
            return call(**arguments)
        except Exception as error:
            said = str(error) or type(error).__name__
            place = f"{key}.path=" if isinstance(error, ConfigError) and _begins(said, node.get("path")) else f"{key}: "
            self.problems.append(said if said.startswith(f"{key}.") else place + said)
            return None

    def data_problems(self) -> list[str]:
        """What can be said of the data although the config has problems: no files, or columns that are not there."""
        path = self._mapping("source").get("path")
        if self._source is None or not path or holds_password(path):  # the demo's would be made up first
            return []
        try:
            self._source.tolerant().inspect(self._source.inputs()[:1], crosscheck.needed(self.values))
        except ConfigError as error:
            return [f"source.path={each}" if _begins(each, path) else each for each in error.problems]
        except Exception:  # the config's own problems are the ones to tell now
            return []
        return []


def _begins(said: str, path: Any) -> bool:
    return any(said.startswith(f"{each}: ") for each in (path if isinstance(path, list) else [path]))


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "_target_"}


def _takes(call: Callable[..., Any], name: str) -> bool:
    found: list[str] = []
    bind(call, {name: None}, "", found)
    return not any(problem.startswith(f"{name}: no such key") for problem in found)


def _members(seam: type) -> list[str]:
    return [name for name in vars(seam) if not name.startswith("_")]


def _elsewhere(group: str, problem: str) -> str:
    """Which other options of a group have the key that this one has not."""
    name = re.match(rf"{group}\.(\w+): no such key", problem)
    if name is None or not (CONF / group).is_dir() or "did you mean" in problem:
        return ""
    files = sorted((CONF / group).glob("*.yaml"))
    having = [f"{group}={file.stem}" for file in files if re.search(rf"^ *{name[1]}:", file.read_text(), re.MULTILINE)]
    return f"; {' and '.join(having)} {'has' if len(having) == 1 else 'have'} it" if having else ""


def _another_target(target: str, problems: list[str]) -> list[str]:
    """One problem for all keys of a chosen option that the loader which replaced its own does not take."""
    chosen = _chosen("model")
    option = CONF / "model" / f"{chosen}.yaml"
    if not option.is_file():
        return problems
    content: Any = OmegaConf.to_container(OmegaConf.load(option), resolve=False)
    own = content.get("model", content)
    alien = tuple(f"model.{name}: no such key" for name in own)
    rest = [problem for problem in problems if not problem.startswith(alien)]
    if own["_target_"] == target or rest == problems:
        return problems
    return [
        f"model={chosen}, but model._target_={target} is set as well, which wins and does not take the option's keys; "
        "leave out one of them (with a loader of your own: model=custom)",
        *rest,
    ]


def check_data(job: Job) -> None:
    """Look at the input as far as one footer tells, for a job that is not run yet.

    Raises:
        ConfigError: No files, or columns that are not there.
    """
    job.source.inspect(job.source.inputs()[:1], needed_columns(job))


def _ready(given: Any) -> Loader:
    """A predictor or an estimator given in Python, as a loader."""
    predictor = _predictor(given)
    name = f"{getattr(given, '__module__', '')}.{getattr(given, '__qualname__', type(given).__qualname__)}"
    return Loader(functools.partial(_itself, predictor), name, {}, of_predictor(predictor))


def _predictor(given: Any) -> Predictor:
    if inspect.isclass(given):
        name = given.__qualname__
        raise ConfigError(
            f"model={name}: is a class; give an instance, such as model={name}(...), or let each job make one: "
            f"{{'model._target_': '{given.__module__}.{name}'}}"
        )
    if callable(given):
        return cast("Predictor", given)
    if not callable(getattr(given, "predict", None)):
        raise ConfigError(f"model={given!r:.60}: expected a function of a batch, or an estimator, which has predict")
    from models.sklearn import of

    return of(given)


def _itself(predictor: Predictor) -> Predictor:
    return predictor


def _command(argv: list[str], sink_path: str | None, job: Job) -> str:
    given = [] if sink_path is not None else [f"sink.path={job.sink.store.root}"]
    return shlex.join(["python", "-m", "runner", *argv, *given])


def _leaves(node: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(node, dict):
        return [leaf for name, value in node.items() for leaf in _leaves(value, f"{key}.{name}")]
    return [(key, node)]
