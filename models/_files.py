"""Model files, wherever they lie."""

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

HUB = re.compile(r"[\w.-]+/[\w-]+(\.\d[\w.-]*)?")  # how a model is named on a hub: organization/name
OTHERS = (".json", ".ubj", ".onnx", ".pb", ".gguf", ".keras", ".h5")  # files of other frameworks

Artifact = Path | bytes
"""A model file: where it lies on the local disk, or what it holds."""


def name_problems(option: str, path: str) -> list[str]:
    """The problem of a `model.path` that, by its name, is no file which this option reads; none if it may be one.

    Args:
        option: The model's option.
        path: As given.
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
    """Bring a model file to where libraries can read it.

    Args:
        uri: A local path or any fsspec URI; `s3://anonymous@bucket/key` needs no credentials.
        storage_options: fsspec's options for the URI's protocol.

    Returns:
        The absolute path of a local file, else the content: nothing is left on disk.

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
    """What libraries take that read a path or an open file; open anew, so from its beginning."""
    return io.BytesIO(artifact) if isinstance(artifact, bytes) else str(artifact)


def unreadable(uri: str, artifact: Artifact, what: str, error: Exception) -> ValueError:
    """The error of a library that was given a file which is not `what` it reads, in one line for people."""
    if isinstance(error, ModuleNotFoundError):
        return ValueError(f"model.path={uri} needs the package {error.name}, which is not installed here: install it")
    kind = f"{type(error).__name__}: " if isinstance(error, LookupError) else ""
    said = first_line(error).partition(". ")[0] if str(error) else "the file ends early"
    return ValueError(
        f"model.path={uri} cannot be read as {what}: {kind}{said}{_likeness(artifact)}; save or fetch it again"
    )


def begins(artifact: Artifact) -> bytes:
    """The first bytes."""
    if isinstance(artifact, bytes):
        return artifact[:HEAD]
    with artifact.open("rb") as file:
        return file.read(HEAD)


def _likeness(artifact: Artifact) -> str:
    """What no model begins like."""
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
