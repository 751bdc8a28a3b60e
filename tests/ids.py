"""Names for the cases of a parametrized test."""

from __future__ import annotations

import re


def shown(value: object) -> str:
    """A value as it is written, less its address in memory: parallel workers must give a case the same name."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
