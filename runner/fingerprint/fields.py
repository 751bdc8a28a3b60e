"""The fields of the fingerprint: everything that determines predictions, and nothing of who executes the job."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from runner.errors import ConfigError
from runner.fingerprint.sealed import Referring
from runner.storage.folder import digest
from runner.storage.locations import absolute
from runner.types import Loader, Predict, Sink, Source

PACKAGES = ("ray-batch-runner", "pyarrow", "pandas", "numpy", "ray", "torch", "scikit-learn")
FIELDS = (
    "model", "model.arguments", "model.code", "predict.version", "predict.input", "predict.columns", "predict.rename",
    "predict.output_schema", "batch_size", "source.filters", "source.code",
)  # fmt: skip
ARTIFACT = "artifact "


def fingerprint_fields(
    model: Loader,
    predict: Predict,
    source: Mapping[str, Any],
    sink: Mapping[str, Any],
    batch_size: int,
    references: Mapping[str, str],
) -> dict[str, Any]:
    """The fields by name, as the recipe records them and as a refusal shows them.

    Args:
        model: The loader, bound to its arguments.
        predict: How the predictor is fed.
        source: From `source_settings`.
        sink: From `sink_settings`.
        batch_size: Rows per call of the predictor.
        references: Values that came from environment variables, each with the interpolation that named it.
    """
    code = {"predict.version": predict.version} if predict.version is not None else {"model.code": model.code}
    return {
        "model": model.target,
        "model.arguments": _plain(model.arguments),
        **code,
        **_artifacts(model, predict, references),
        "predict.input": predict.input,
        "predict.columns": predict.columns,
        **({"predict.rename": predict.rename} if predict.rename else {}),
        "predict.output_schema": predict.output_schema,
        "batch_size": batch_size,
        **{f"source.{name}": _plain(value) for name, value in source.items()},
        **{f"sink.{name}": _plain(value) for name, value in sink.items()},
    }


def source_settings(source: Source, made: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the source that decide which rows there are and what they hold, by name.

    Args:
        source: Asked for its `settings`.
        made: The code and the arguments of a source that is not built in; the arguments count if it has no settings.
    """
    own = source.settings()
    code = {"code": made["code"]} if "code" in made else {}
    return {"filters": None, **(made if own is None else {**code, **own})}


def sink_settings(sink: Sink) -> dict[str, Any]:
    """What changes what a part holds, by name; kept columns do in every sink."""
    kept = sink.keep_columns
    return {**sink.settings(), "keep_columns": kept if kept == "all" else list(kept)}


def _artifacts(model: Loader, predict: Predict, references: Mapping[str, str]) -> dict[str, Any]:
    """Checksums of the model's files, by path."""
    options = model.arguments.get("storage_options") or {}
    paths = predict.artifacts
    if paths is None:
        own = model.arguments.get("path")
        paths = [own] if isinstance(own, str) else []
    return {_named(path, references): _digest(path, options) for path in paths}


def _named(path: str, references: Mapping[str, str]) -> str:
    """The name of an artifact's field. A path from the environment is recorded as its interpolation."""
    plain = f"{ARTIFACT}{path}"
    return Referring(f"{ARTIFACT}{references[path]}", plain) if path in references else plain


def _digest(path: str, options: Mapping[str, Any]) -> str:
    try:
        return digest(absolute(path), options)
    except FileNotFoundError as missing:
        raise ConfigError(f"model.path={path}: there is no such file") from missing
    except PermissionError as refused:
        raise ConfigError(f"model.path={path}: may not be read: {refused}") from refused


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, so that a recorded one compares equal to a given one."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if name != "storage_options"}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def versions() -> dict[str, str]:
    """The versions of installed packages that can change what a part holds."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
