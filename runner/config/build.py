"""The keys that belong to no group, and the way from a config to a checked `Job`: all problems are collected first."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from runner.config import crosscheck
from runner.config.check import nearest
from runner.config.composition import chosen, nobody_chose
from runner.config.explain import WITHOUT_PACKAGE
from runner.config.foreign import NOT_ROWS
from runner.config.from_python import loader_of
from runner.config.overrides import unknown
from runner.config.parts import Parts, arguments_of, begins_with_path
from runner.config.resolve import resolved
from runner.driver.job import Job
from runner.driver.survey import needed_columns
from runner.errors import ConfigError
from runner.fingerprint.fields import ARTIFACT, FIELDS, sink_settings, source_settings
from runner.fingerprint.sealed import environment_references
from runner.types import Auto, ByteSize, Errors, Plan, Positive, Predict, Predictor, RayOptions, Resources, Verify
from runner.words.secrets import holds_password, learn, learn_environment, literals, redacted, secret_values

Action = Literal["run", "plan", "verify"]


@dataclass(frozen=True)
class Top:
    """The keys that belong to no group."""

    action: Action = "run"
    num_actors: Positive | Auto = "auto"
    batch_size: Positive = 65_536
    shard_bytes: ByteSize | Auto | None = "auto"
    shard_rows: Positive | None = None


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
        problems: Those that were found before; they are reported together with the new ones.
        broken: Keys whose problem is among these; nothing more is said of them.
        sweep: Whether it is one job of several: then a key may have no effect in some.
        model: A predictor to use in place of the config's model.
        argv: The command line, for the command that continues the job.
    """

    problems: Collection[str] = ()
    broken: Collection[str] = ()
    sweep: bool = False
    model: Predictor | None = None
    argv: list[str] | None = None


def check_config(cfg: DictConfig, run_dir: Path, known: Known | None = None) -> Checked:
    """Build the job that a composed config describes.

    Args:
        cfg: Composed, unresolved.
        run_dir: Where output goes without a `sink.path`.
        known: What is known of it already.

    Raises:
        ConfigError: With every problem.
    """
    known = known or Known()
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    found = [*known.problems, *map(_literal, literals(raw)), *_unknown_keys(cfg)]
    found += _lost_presets(raw)
    values = resolved(cfg, known.broken, found)
    learn_environment()
    learn(secret_values(raw, values))
    parts = Parts(values, raw, found)
    top = parts.options(Top, "")
    plan, verify = parts.options(Plan, "plan"), parts.options(Verify, "verify")
    job = _assembled(parts, top, run_dir, known.model)
    notes = crosscheck.check_together(parts, sweep=known.sweep)
    found += _unknown_fields(job, values["source"]) if job is not None else []
    if found or job is None or top is None or plan is None or verify is None:
        raise ConfigError(_once([*found, *_data_problems(parts)]))
    command = _command(known.argv, job, default_sink=parts.default_sink) if known.argv is not None else None
    job = replace(
        job,
        config=redacted(raw),
        columns_key=_columns_key(),
        references=environment_references(raw, values),
        sink_path=parts.sink_path,
        command=command,
    )
    return Checked(job, top.action, plan, verify, notes)


def _unknown_keys(cfg: DictConfig) -> list[str]:
    """Keys at the top that nothing reads; what a config folder's own group holds may be referred to."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    own = {str(group).partition("/")[0] for group in choices}
    return [problem for key in cfg if (problem := unknown(str(key), own))]


def _unknown_fields(job: Job, source: Mapping[str, Any]) -> list[str]:
    """Names in `sink.accept` that no fingerprint has: the difference that is meant would be refused all the same."""
    settings = {**arguments_of(source), **source_settings(job.source, job.source_made)}
    options = [f"source.{name}" for name in settings if name not in NOT_ROWS]
    known = list(dict.fromkeys([*FIELDS, *options, *(f"sink.{name}" for name in sink_settings(job.sink))]))
    absent = [name for name in job.sink.accept if name not in known and not name.startswith(ARTIFACT)]
    return [f"sink.accept: there is no field {name!r} of the fingerprint{nearest(name, known)}" for name in absent]


def _lost_presets(raw: Mapping[str, Any]) -> list[str]:
    """The problem of a preset whose first line does not say its package: its keys lie below `job`, where nothing reads them."""
    lost = raw.get("job")
    if not lost:
        return []
    names = chosen("job")
    if names in ("", "none"):
        return [f"job.{name}: no such key; job chooses a preset, whose keys are given without job" for name in lost]
    return [f"job={names}: {WITHOUT_PACKAGE}"]


def _columns_key() -> str:
    """What asks for the columns of `predict.columns`. If nobody chose a model, it is the demo's model, which needs the demo's columns."""
    if not nobody_chose("model", "predict.columns"):
        return "predict.columns"
    return f"predict.columns (of model={chosen('model')}, since no model was chosen; choose one with model=...)"


def _literal(key: str) -> str:
    return f"{key}: a credential does not belong in a config; give ${{oc.env:NAME}} and set NAME in the environment"


def _once(problems: list[str]) -> list[str]:
    """Each problem once: a key that another key refers to is missing in both places."""
    return list({problem.partition("; give ")[0]: problem for problem in reversed(problems)}.values())[::-1]


def _assembled(parts: Parts, top: Top | None, run_dir: Path, model: Predictor | None) -> Job | None:
    """The job, or `None` if there is a problem; each part is checked whether or not another one has problems."""
    predict, resources = parts.options(Predict, "predict"), parts.options(Resources, "resources")
    errors, ray = parts.options(Errors, "errors"), parts.options(RayOptions, "ray")
    source, mode = parts.component("source"), parts.component("mode")
    sink = parts.component("sink", path=str(run_dir / "predictions"))
    here = predict is None or predict.load_on != "worker"
    loader = parts.loader(here=here) if model is None else loader_of(model)
    if parts.problems or top is None or loader is None:
        return None
    tolerates = source.tolerant() if errors.on_bad_rows == "quarantine" else source
    job = Job(tolerates, loader, mode, sink, predict, resources, errors, ray, top.batch_size, top.shard_bytes)
    return replace(job, source_made=parts.source_made, shard_rows=top.shard_rows)


def _data_problems(parts: Parts) -> list[str]:
    """What can be said of the data although the config has problems: no files, or columns that are not there."""
    source, path = parts.made.get("source"), parts.node("source").get("path")
    if source is None or not path or holds_password(path):  # the demo's data would be made up first
        return []
    try:
        with source.reading():
            source.tolerant().inspect(source.inputs()[:1], crosscheck.needed(parts.values, _columns_key()))
    except ConfigError as error:
        return [f"source.path={each}" if begins_with_path(each, path) else each for each in error.problems]
    except Exception:  # the config's own problems are the ones that matter now
        return []
    return []


def check_data(job: Job) -> None:
    """Look at the first input of a job that is not run yet.

    Raises:
        ConfigError: No files, or columns that are not there.
    """
    with job.source.reading():
        job.source.inspect(job.source.inputs()[:1], needed_columns(job))


def _command(argv: list[str], job: Job, *, default_sink: bool) -> str:
    given = [f"sink.path={job.sink.records.root}"] if default_sink else []
    return shlex.join(["python", "-m", "runner", *argv, *given])
