"""Model files, wherever they lie."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.storage import absolute, is_local, open_input

Artifact = Path | bytes
"""A model file: where it lies on the local disk, or what it holds."""


def fetch(uri: str, storage_options: Mapping[str, Any] | None = None) -> Artifact:
    """Bring a model file to where libraries can read it.

    Args:
        uri: A local path or any fsspec URI; `s3://anonymous@bucket/key` needs no credentials.
        storage_options: fsspec's options for the URI's protocol.

    Returns:
        The absolute path of a local file, else the content: nothing is left on disk.

    Raises:
        FileNotFoundError: There is no such file.
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


def _existing(uri: str) -> Path:
    path = Path(absolute(uri))
    if not path.is_file():
        raise _not_found(uri)
    return path


def _not_found(uri: str) -> FileNotFoundError:
    return FileNotFoundError(f"model.path={uri}: there is no such file")
