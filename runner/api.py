"""Jobs from Python: the same keys as on the command line, in a dict or a YAML file."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError, RunnerError, Told
from runner.words import exceptions
from runner.words.secrets import hide

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from runner.config.build import Checked
    from runner.config.composition import Composer
    from runner.config.overrides import Examined
    from runner.report.report import Report

Config = Mapping[str, Any] | str | os.PathLike[str]
Model = Any  # a function of a batch, or an estimator, which has `predict`


def run(
    config: Config | None = None, *, model: Model | None = None, config_dir: str | os.PathLike[str] | None = None
) -> Report:
    """Run a job.

    Args:
        config: Keys of the command line to their values: `{"source": "parquet", "source.path": "in/", "mode": "inline"}`,
            nested or with dots. A group's key chooses its option when its value is a text, and sets keys of the option
            when it is a mapping. Or the path of a YAML file: of the same, a preset (`defaults: [override /mode: actors]`)
            or a whole primary config (`defaults: [config, override source: parquet, _self_]`).
            As `source`, a DataFrame or an Arrow table is input itself: it is kept below `outputs/inputs/`.
        model: A predictor, `batch -> predictions`, in place of the config's model, or an estimator, which has `predict`.
            Also taken as the config's `model`.
        config_dir: A folder with options and groups of your own, as `--config-dir`; modules beside it can be imported.

    Returns:
        The report of the complete job; its `to_pandas()` and `to_arrow()` read the predictions.

    Raises:
        ConfigError, SinkRefused: Nothing was run.
        JobFailed, Incomplete, Interrupted: The report is in the exception's `report`.

    Example:
        >>> from runner import run
        >>> report = run({"mode": "inline", "sink.path": "/tmp/out"})  # doctest: +SKIP
        >>> report.rows_out  # doctest: +SKIP
        1710629
    """
    from runner import job
    from runner.frames import predictions

    with _without_credentials():
        checked = _checked(config, model, config_dir).job
        report = job.run(checked)
    report.output = partial(predictions, checked.sink)
    return report


def plan(
    config: Config | None = None, *, model: Model | None = None, config_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """What `action=plan` prints: shards, what is done, and what fits; runs nothing.

    Args:
        config: As for `run`.
        model: As for `run`.
        config_dir: As for `run`.

    Returns:
        Lines.

    Raises:
        ConfigError, SinkRefused: As `run` would.
    """
    from runner.preview import preview

    with _without_credentials():
        checked = _checked(config, model, config_dir)
        return preview(checked.job, checked.plan)


@contextlib.contextmanager
def _without_credentials() -> Iterator[None]:
    """Python shows an error together with its cause. A cause that quotes a credential is replaced by its text, without the credential."""
    try:
        yield
    except RunnerError as error:
        behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        shown = "".join(traceback.format_exception(behind)) if behind else ""
        if behind and shown != hide(shown):
            error.__context__, error.__cause__ = None, Told(exceptions.full_traceback(behind))
        raise


@dataclass(frozen=True)
class _Given:
    """What was given as a config, by kind.

    Attributes:
        values: Dotted keys.
        preset: The content of a preset file.
        name: The primary config.
        folders: With groups of their own.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    preset: Any = None
    name: str = "config"
    folders: Sequence[Path] = ()


def _checked(config: Config | None, model: Model | None, config_dir: str | os.PathLike[str] | None) -> Checked:
    from runner.config.build import Known, check_config
    from runner.config.composition import composer, use
    from runner.frames import is_frame, stored

    given = _given(config)
    values = dict(given.values)
    if _is_model(values.get("model")):
        model = values.pop("model")
    if is_frame(values.get("source")):
        values |= {"source": "parquet", "source.path": str(stored(values["source"], Path("outputs", "inputs")))}
    with composer([*([Path(config_dir)] if config_dir else []), *given.folders], given.name) as hydra:
        examined, keys = _examined(given, values, hydra, model)
        base = hydra.common(examined)
        _update(base, keys, examined)
        run_dir = Path("outputs", f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}")
        return check_config(use(hydra.job(base)), run_dir, Known(examined.problems, examined.broken, model=model))


def _is_model(value: Any) -> bool:
    return callable(value) or hasattr(value, "predict")


# ---------------------------------------------------------------- what was given


def _given(config: Config | None) -> _Given:
    if config is None:
        return _Given()
    if isinstance(config, Mapping):
        _refuse_no_table(config.get("source"))
        return _Given(_flat(config))
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"{config!r:.60}: expected a mapping of keys to values, or the path of a YAML file of them; "
            "a DataFrame is given as {'source': df}"
        )
    return _from_file(Path(config))


def _refuse_no_table(source: Any) -> None:
    from runner.frames import no_table

    if problem := no_table(source):
        raise ConfigError(problem)


def _from_file(file: Path) -> _Given:
    content = _read(file)
    if "defaults" not in content:
        return _Given(_flat(content))
    if "config" in content["defaults"]:
        return _Given(name=file.stem, folders=[file.parent])
    return _Given(preset=content, folders=[file.parent.parent] if file.parent.name == "job" else [])


def _read(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file; expected a YAML file with the keys of the command line")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except Exception as error:
        raise ConfigError(f"{file}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected a mapping of keys to values")
    return {str(key): value for key, value in content.items()}


def _flat(config: Mapping[Any, Any]) -> dict[str, Any]:
    """Nested mappings as dotted keys, one level deep; a mapping below that is a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value and "." not in str(key):
            flat |= {f"{key}.{name}": _plain(each) for name, each in value.items()}
        else:
            flat[str(key)] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    """The value as a config holds it: arrays, a pandas index, tuples and views become lists, NumPy scalars become Python's."""
    if hasattr(value, "tolist") and not hasattr(value, "predict"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(_plain(name)): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, os.PathLike) else value


# ---------------------------------------------------------------- into one config


def _examined(
    given: _Given, values: Mapping[str, Any], hydra: Composer, model: Model | None
) -> tuple[Examined, dict[str, Any]]:
    """The choices of options, checked as overrides, and the other keys with their values."""
    from runner.config.hydra_sources import register_preset
    from runner.config.overrides import GROUPS, examine, implied, unknown

    groups = {*GROUPS, *hydra.own}
    choices = {key: value for key, value in values.items() if key in groups and value != {}}
    keys = {key: value for key, value in values.items() if key not in groups}
    chosen = [f"{group}={_option(option)}" for group, option in choices.items()]
    if given.preset is not None:
        chosen.append(f"job={register_preset(given.preset)}")
    if model is not None and not any(key.partition(".")[0] == "model" for key in values):
        chosen.append("model=custom")
    chosen += implied([*chosen, *(f"{key}=" for key in keys)])
    examined = examine(chosen, lambda group: hydra.options(group, ()), sweep=False, own=hydra.own)
    examined.problems += [problem for key in keys if (problem := unknown(key, hydra.own))]
    if model is not None:
        examined.problems += [
            f"{key}: has no effect beside a model given in Python" for key in values if key.startswith("model")
        ]
    return examined, {key: value for key, value in keys.items() if not unknown(key, hydra.own)}


def _option(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _update(cfg: DictConfig, keys: Mapping[str, Any], examined: Examined) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for key, value in keys.items():
        try:
            OmegaConf.update(cfg, key, value, force_add=True)
        except OmegaConfBaseException as error:
            examined.refuse(f"{key}: {str(error).splitlines()[0]}", key)
