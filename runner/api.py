"""Jobs from Python: the same keys as on the command line, in a dict or a YAML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError

if TYPE_CHECKING:
    from runner.config import Checked
    from runner.report import Report

Config = Mapping[str, Any] | str | Path


def run(config: Config | None = None, *, model: Callable[[Any], Any] | None = None) -> Report:
    """Run a job.

    Args:
        config: Keys of the command line to their values: `{"source": "parquet", "source.path": "in/", "mode": "inline"}`,
            nested or with dots; or the path of a YAML file of the same. A group's key chooses its option when its value is
            a text, and sets keys of the option when it is a mapping.
        model: A predictor, `batch -> predictions`, in place of the config's model. Also taken as the config's `model`.

    Returns:
        The report of the complete job.

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

    return job.run(_checked(config, model).job)


def plan(config: Config | None = None, *, model: Callable[[Any], Any] | None = None) -> list[str]:
    """What `action=plan` prints: shards, what is done, and what fits; runs nothing.

    Args:
        config: As for `run`.
        model: As for `run`.

    Returns:
        Lines.

    Raises:
        ConfigError, SinkRefused: As `run` would.
    """
    from runner.preview import preview

    return preview(_checked(config, model).job)


def _checked(config: Config | None, model: Callable[[Any], Any] | None) -> Checked:
    from runner.config import check, register, unknown_keys

    values = _flat(_read(config))
    if callable(values.get("model")):
        model = values.pop("model")
    choices, keys = _split(values)
    if model is not None:
        choices.setdefault("model", "custom")
    _, problems = unknown_keys([f"{key}=" for key in values])
    register()
    cfg = _composed([f"{group}={option}" for group, option in choices.items()])
    from omegaconf import OmegaConf

    for key, value in keys.items():
        if not any(problem.startswith(f"{key}:") for problem in problems):
            OmegaConf.update(cfg, key, value, force_add=True)
    run_dir = Path("outputs", f"{datetime.now():%Y-%m-%d/%H-%M-%S-%f}")
    return check(cfg, run_dir, model=model, problems=problems)


def _read(config: Config | None) -> Mapping[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return config
    from omegaconf import OmegaConf

    if not Path(config).is_file():
        raise ConfigError(f"{config}: there is no such file; expected a YAML file with the keys of the command line")
    content = OmegaConf.to_container(OmegaConf.load(config), resolve=False)
    if not isinstance(content, dict):
        raise ConfigError(f"{config}: expected a mapping of keys to values")
    return {str(key): value for key, value in content.items()}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings of the groups as dotted keys, one level deep: deeper ones are values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and "." not in key:
            flat |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            flat[key] = value
    return flat


def _split(values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Choices of groups, and the other keys."""
    from runner.config import GROUPS

    choices = {key: value for key, value in values.items() if key in GROUPS and isinstance(value, str)}
    return choices, {key: value for key, value in values.items() if key not in choices}


def _composed(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir

    from runner.cli import explain
    from runner.help import CONF

    try:
        with initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            return compose("config", overrides)
    except Exception as error:
        raise ConfigError(explain(error)) from error
