"""The fingerprint as 16 hex digits, and the fields in which two fingerprints differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner.fingerprint.sealed import Referring
from runner.words.credentials import is_secret


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A hash of the fields as 16 hex digits. Their order does not count."""
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


NOT_GIVEN = "(not given)"


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, each with its recorded and its given value. `None` differs from a field that is not there."""
    given = {_recorded_name(name, recorded): value for name, value in given.items()}
    pairs = {name: (recorded.get(name, NOT_GIVEN), given.get(name, NOT_GIVEN)) for name in sorted({*recorded, *given})}
    return {name: pair for name, pair in pairs.items() if _counting(pair[0], name) != _counting(pair[1], name)}


def _recorded_name(name: str, recorded: Mapping[str, Any]) -> str:
    """The name under which earlier versions recorded a field that is named after a value of the environment."""
    return name.value if isinstance(name, Referring) and name.value in recorded else name


def _counting(value: Any, name: str) -> Any:
    """The value without credentials: they determine no prediction and may change at any time."""
    if is_secret(name):
        return None
    if isinstance(value, Mapping):
        below = {key: f"{name}.{key}" for key in value}
        return {key: _counting(value[key], path) for key, path in below.items() if not is_secret(path)}
    return value
