"""Fetches model files from a local disk or any storage, and explains what is wrong with one that cannot be read."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from runner.sources.signature import HEAD, TEXT, WEB, kind_of
from runner.storage.folder import open_input
from runner.storage.locations import absolute, is_local
from runner.words.plain import first_line

HUB = re.compile(r"[\w.-]+/[\w-]+(\.\d[\w.-]*)?")  # the name of a model on a hub: organization/name
OTHERS = (".json", ".ubj", ".onnx", ".pb", ".gguf", ".keras", ".h5")  # extensions of other frameworks' files

Artifact = Path | bytes
"""A model file: its path on the local disk, or its content."""


def name_problems(option: str, path: str) -> list[str]:
    """Return a problem if a `model.path`, by its name alone, cannot be a file that this option of `model` reads.

    Args:
        option: The option, such as `sklearn`.
        path: The path as it was given.

    Returns:
        One message, or none.
    """
    own = "a loader of your own reads it: model=custom model._target_=package.module.load"
    if path.endswith(".py"):
        module = ".".join(PurePath(path).with_suffix("").parts).lstrip("./")
        return [
            f"model.path={path}: is code, not a fitted model; model=custom model._target_={module}.load calls its load()"
        ]
    if path.endswith(OTHERS):
        return [f"model.path={path}: is no file that model={option} reads; {own}"]
    if HUB.fullmatch(path) and not Path(path).exists() and not Path(path).parent.is_dir():
        return [f"model.path={path}: there is no such file; if it names a model on a hub, {own}"]
    return []


def fetch(uri: str, storage_options: Mapping[str, Any] | None = None) -> Artifact:
    """Return a model file in a form that libraries can read.

    Args:
        uri: A local path or any fsspec URI; `s3://anonymous@bucket/key` needs no credentials.
        storage_options: fsspec's options for the URI's protocol.

    Returns:
        The absolute path of a local file; of a remote one its content, so that no copy stays on the disk.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
    """
    if is_local(uri):
        return _existing(uri)
    try:
        with open_input(uri, storage_options) as file:
            return file.read()
    except FileNotFoundError as missing:
        raise _not_found(uri) from missing


def readable(artifact: Artifact) -> str | io.BytesIO:
    """Return a path or a new open file, at its beginning, for libraries that take either."""
    return io.BytesIO(artifact) if isinstance(artifact, bytes) else str(artifact)


def unreadable(uri: str, artifact: Artifact, what: str, error: Exception) -> ValueError:
    """Return an error of one line for a model file that a library could not read.

    Args:
        uri: `model.path`.
        artifact: The file.
        what: What the library reads, such as `joblib`.
        error: What the library raised.
    """
    if isinstance(error, ModuleNotFoundError):
        return ValueError(f"model.path={uri} needs the package {error.name}, which is not installed here: install it")
    kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
    said = first_line(error).partition(". ")[0] if str(error) else "the file ends early"
    return ValueError(
        f"model.path={uri} cannot be read as {what}: {kind}{said}{_likeness(artifact)}; save or fetch it again"
    )


def begins(artifact: Artifact) -> bytes:
    """Return the first bytes of a model file."""
    if isinstance(artifact, bytes):
        return artifact[:HEAD]
    with artifact.open("rb") as file:
        return file.read(HEAD)


def _likeness(artifact: Artifact) -> str:
    """Return what the file looks like, for a message, if no model looks like that: a web page, or plain text."""
    found = kind_of(begins(artifact))
    return f"; it begins like {found[0]}" if found in (WEB, TEXT) else ""


def _existing(uri: str) -> Path:
    path = Path(absolute(uri))
    if path.is_dir():
        raise IsADirectoryError(f"model.path={uri}: is a folder; name the file in it")
    if not path.is_file():
        raise _not_found(uri)
    return path


def _not_found(uri: str) -> FileNotFoundError:
    return FileNotFoundError(f"model.path={uri}: there is no such file")
