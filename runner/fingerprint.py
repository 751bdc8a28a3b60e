"""What determines a job's predictions, gathered field by field. Who executes it is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from runner.errors import ConfigError
from runner.storage import absolute, digest
from runner.types import Loader, Predict, Sink, Source

PACKAGES = ("ray-batch-runner", "pyarrow", "pandas", "numpy", "ray", "torch", "scikit-learn")
FIELDS = (
    "model", "model.arguments", "model.code", "predict.version", "predict.input", "predict.columns",
    "predict.output_schema", "batch_size", "source.filters",
)  # fmt: skip
ARTIFACT = "artifact "


def fingerprint_fields(model: Loader, predict: Predict, source: Source, sink: Sink, batch_size: int) -> dict[str, Any]:
    """Name to value, as the recipe records them and a refusal shows them side by side."""
    code = {"predict.version": predict.version} if predict.version is not None else {"model.code": model.code}
    return {
        "model": model.target,
        "model.arguments": _plain(model.arguments),
        **code,
        **_artifacts(model, predict),
        "predict.input": predict.input,
        "predict.columns": predict.columns,
        "predict.output_schema": predict.output_schema,
        "batch_size": batch_size,
        "source.filters": _plain(source.filters),
        **{f"sink.{name}": value for name, value in sink.settings().items()},
    }


def _artifacts(model: Loader, predict: Predict) -> dict[str, Any]:
    """Checksums of the files that the model is made of, by path."""
    options = model.arguments.get("storage_options") or {}
    paths = predict.artifacts
    if paths is None:
        own = model.arguments.get("path")
        paths = [own] if isinstance(own, str) else []
    return {f"{ARTIFACT}{path}": _digest(path, options) for path in paths}


def _digest(path: str, options: Mapping[str, Any]) -> str:
    try:
        return digest(absolute(path), options)
    except FileNotFoundError as missing:
        raise ConfigError(f"model.path={path}: there is no such file") from missing
    except PermissionError as refused:
        raise ConfigError(f"model.path={path}: may not be read: {refused}") from refused


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that what is recorded compares equal to what is given."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items() if name != "storage_options"}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def versions() -> dict[str, str]:
    """Of the installed packages that can change what a part holds."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
