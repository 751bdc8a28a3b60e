"""Keep credentials out of everything that is written: which keys hold one, and a config without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

SECRET_KEY = re.compile(
    r"secret|password|passwd|credential|private_key|account_key|access_key$|api_key|(access|auth|session|sas|security|bearer)_token",
    re.IGNORECASE,
)
HIDDEN = "***"


def is_secret(key: str) -> bool:
    """Whether a key, given with its path, holds a credential."""
    return SECRET_KEY.search(key.rpartition(".")[2]) is not None or key.endswith("storage_options.token")


def literals(node: Any, key: str = "") -> Iterator[str]:
    """Keys of an unresolved config that hold a secret in plain text, not as `${oc.env:NAME}`."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from literals(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from literals(value, f"{key}[{i}]")
    elif isinstance(node, str) and node and is_secret(key) and "${" not in node and node != "???":
        yield key


def redacted(node: Any, key: str = "") -> Any:
    """A copy with every secret's value hidden; references to the environment stay."""
    if isinstance(node, Mapping):
        return {name: redacted(value, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, list):
        return [redacted(value, key) for value in node]
    hide = isinstance(node, str) and node and is_secret(key) and "${" not in node
    return HIDDEN if hide else node
