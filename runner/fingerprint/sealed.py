"""Fingerprint values from environment variables: recorded as their interpolation with a salted digest, compared by value."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from runner.words.secrets import ENVIRONMENT, REFERENCE

SEAL = re.compile(r"(?P<reference>.*) \(sha256:(?P<salt>[0-9a-f]{16}):(?P<digest>[0-9a-f]{32})\)", re.DOTALL)
ROUNDS = 20_000  # which make guessing a value from its digest slow


class Sealed(str):
    """`${oc.env:MODEL} (sha256:salt:digest)`: equal to every text with the value behind the reference, sealed or plain.

    Attributes:
        value: What it stands for, where that is known; `None` in a recipe that was read.
    """

    value: str | None

    def __new__(cls, text: str, value: str | None = None) -> Sealed:
        """Make it of the text that is recorded, and the value."""
        made = super().__new__(cls, text)
        made.value = value
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        theirs = other.value if isinstance(other, Sealed) else str(other)
        if self.value is not None:
            return other == self.value if theirs is None else theirs == self.value
        return str(self) == str(other) if theirs is None else self._fits(theirs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def _fits(self, value: str) -> bool:
        seal = SEAL.fullmatch(str(self))
        return seal is not None and _digest(seal["salt"], value) == seal["digest"]


class Referring(str):
    """A name that holds a reference.

    Attributes:
        value: The name with what the reference stands for, as recipes had it before.
    """

    value: str

    def __new__(cls, text: str, value: str) -> Referring:
        """Make it of both."""
        made = super().__new__(cls, text)
        made.value = value
        return made


@functools.cache
def _digest(salt: str, value: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", value.encode(), bytes.fromhex(salt), ROUNDS, 16).hex()


def seal(fields: Mapping[str, Any], references: Mapping[str, str]) -> dict[str, Any]:
    """The fields, with a `Sealed` in place of every text that came from the environment.

    The salt is a digest of everything else, so that two jobs have different ones and one job has the same in every process: its
    fingerprint must not change from run to run.

    Args:
        fields: Of the fingerprint.
        references: A value to what refers to it.
    """
    if not references:
        return dict(fields)
    open_fields = _mapped(fields, lambda text: references.get(text, text))
    salt = hashlib.sha256(json.dumps(open_fields, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def sealed(text: str) -> str:
        reference = references.get(text)
        return text if reference is None else Sealed(f"{reference} (sha256:{salt}:{_digest(salt, text)})", text)

    found: dict[str, Any] = _mapped(fields, sealed)
    return found


def revive(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recorded recipe, with a `Sealed` in place of every text that was recorded as one."""
    found: dict[str, Any] = _mapped(fields, lambda text: Sealed(text) if SEAL.fullmatch(text) else text)
    return found


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, Mapping):
        return {name: _mapped(value, change) for name, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def told_difference(was: Any, now: Any, spelled: Callable[[Any], str] = repr) -> str:
    """A difference for people: both values, or only that the value of a variable has changed."""
    left, right = _unsealed(spelled(was)), _unsealed(spelled(now))
    if left == right:
        return f"the value behind {', '.join(dict.fromkeys(re.findall(r'[$][{][^}]*[}]', left)))} is another one now"
    return f"there: {left}   now: {right}"


def _unsealed(text: str) -> str:
    return re.sub(r" \(sha256:[0-9a-f]{16}:[0-9a-f]{32}\)", "", text)


def environment_references(raw: Any, resolved: Any) -> dict[str, str]:
    """The texts of a config that came from the environment, in whole or in part, each with the interpolation that named it.

    Args:
        raw: The config as it was written.
        resolved: The same, resolved.
    """
    found: dict[str, str] = {}
    _collect(raw, resolved, raw, found)
    return found


def _collect(node: Any, resolved: Any, root: Any, found: dict[str, str]) -> None:
    if isinstance(node, str) and not isinstance(resolved, str) and (whole := REFERENCE.fullmatch(node)):
        node = _select(root, whole[1])
    if isinstance(resolved, Mapping) and isinstance(node, Mapping):
        for name, value in resolved.items():
            _collect(node.get(name), value, root, found)
    elif isinstance(resolved, list) and isinstance(node, list):
        for inner, value in zip(node, resolved, strict=False):
            _collect(inner, value, root, found)
    elif isinstance(resolved, str) and isinstance(node, str) and ENVIRONMENT.search(text := _expanded(node, root, 8)):
        found[resolved] = text


def _expanded(text: str, root: Any, depth: int) -> str:
    """The text with each `${vars.model}` replaced by the text that it refers to."""

    def replaced(match: re.Match[str]) -> str:
        below = _select(root, match[1])
        return _expanded(below, root, depth - 1) if isinstance(below, str) and depth else match[0]

    return REFERENCE.sub(replaced, text)


def _select(root: Any, name: str) -> Any:
    for segment in name.split("."):
        root = root.get(segment) if isinstance(root, Mapping) else None
    return root
