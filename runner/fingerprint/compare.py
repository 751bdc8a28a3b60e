"""What names a job's predictions in 16 digits, and how the fields of two fingerprints differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from runner.fingerprint.sealed import Referring
from runner.words.credentials import is_secret


def fingerprint(fields: Mapping[str, Any]) -> str:
    """16 hex digits over the named fields, whatever their order."""
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


NOT_GIVEN = "(not given)"


def differences(recorded: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields that differ: name to (recorded, given). One that is `None` differs from one that is not there."""
    given = {_recorded_name(name, recorded): value for name, value in given.items()}
    pairs = {name: (recorded.get(name, NOT_GIVEN), given.get(name, NOT_GIVEN)) for name in sorted({*recorded, *given})}
    return {name: pair for name, pair in pairs.items() if _counting(pair[0], name) != _counting(pair[1], name)}


def _recorded_name(name: str, recorded: Mapping[str, Any]) -> str:
    """A field that is named after a value of the environment was once named by the value itself."""
    return name.value if isinstance(name, Referring) and name.value in recorded else name


def _counting(value: Any, name: str) -> Any:
    """Without credentials, which determine nothing and may change at any time."""
    if is_secret(name):
        return None
    if isinstance(value, Mapping):
        below = {key: f"{name}.{key}" for key in value}
        return {key: _counting(value[key], path) for key, path in below.items() if not is_secret(path)}
    return value
