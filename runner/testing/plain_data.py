"""Settings and spans are plain data, as JSON has it."""

from __future__ import annotations

import json
from typing import Any


def holds_plain(what: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} must be plain data, as JSON has it: {value!r} ({error})") from error
    assert same, f"{what} must be plain data that JSON gives back as it was: {value!r}"
