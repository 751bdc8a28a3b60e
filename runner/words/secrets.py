"""Hides credentials in everything that is shown or recorded, and finds those that a config holds in plain text.

Every text that is shown to people or recorded passes through `hide`. It knows the secret values themselves: those that were given to
`learn` (the values of a config, once it is resolved) and those in the process's own environment. Workers receive the values that the
driver knows together with their work, in memory.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from runner.words.credentials import (
    HIDDEN,
    NO_TOKEN,
    is_harmless,
    is_secret,
    looks_like_one,
    names_one,
    without_lookalikes,
)

REFERENCE = re.compile(r"\$\{([\w.]+)\}")
MENTION = re.compile(  # a secret key within a mapping that was typed on the command line
    r"(secret|password|passwd|private_key|account_key|access_key|api_?key|token|authorization|cookie)\w*\s*['\"]?\s*:",
    re.IGNORECASE,
)
ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\s*:\s*['\"]?(\w+)")
LONGEST = 120  # characters of a value in a message


def literals(node: Any) -> list[str]:
    """Return the keys of an unresolved config that hold a secret in plain text, directly or by a reference to another key."""
    return [key for key, value in _leaves(node, "") if _is_literal(key, value, node)]


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{key}[{i}]")
    else:
        yield key, node


def _is_literal(key: str, value: Any, root: Any) -> bool:
    if isinstance(value, str) and any("${" not in found for found in looks_like_one(value)):
        return True
    return is_secret(key) and _plain_text(value, root, 8)


def _plain_text(value: Any, root: Any, depth: int) -> bool:
    """Return whether the config itself contains the value of a secret key; `${vars.password}` is followed to that key."""
    if isinstance(value, bool) or value in (None, "", "???") or is_harmless(value):
        return False
    if not isinstance(value, str) or "${" not in value:
        return True
    return depth > 0 and any(_plain_text(_at(root, name), root, depth - 1) for name in REFERENCE.findall(value))


def _at(root: Any, name: str) -> Any:
    for segment in name.split("."):
        root = root.get(segment) if isinstance(root, Mapping) else None
    return None if isinstance(root, Mapping) else root


def redacted(node: Any, key: str = "") -> Any:
    """Return a copy of a config with the value of every secret key hidden; references to the environment stay."""
    if isinstance(node, Mapping):
        return {name: redacted(value, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, list):
        return [redacted(value, key) for value in node]
    if is_secret(key) and _plain_text(node, {}, 0):
        return HIDDEN
    return hide(node) if isinstance(node, str) else node


def holds_password(uri: Any) -> bool:
    """Return whether a URI contains a password or a signature, as in `sftp://user:password@host/`."""
    return isinstance(uri, str) and any(True for _ in looks_like_one(uri))


def shown(key: str, value: Any) -> str:
    """Return `key=value` for a message, as it would be typed, without secrets. Any storage option counts as a secret."""
    text = HIDDEN if "storage_options" in key else _spelled(redacted(value, key))
    return f"{key}={text if len(text) <= LONGEST else text[:LONGEST] + '...'}"


def _spelled(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_spelled(each)}' for name, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or value is True or value is False
        else str(value)
    )


def shown_override(override: str) -> str:
    """Return an override as it was typed, with its value hidden if it may contain a secret."""
    key, mark, value = re.sub(r"\\(.)", r"\1", override).partition("=")  # Hydra escapes what it repeats
    path = key.lstrip("+~")
    hidden = is_secret(path) or "storage_options" in path or MENTION.search(value) or holds_password(value)
    return f"{key}{mark}{HIDDEN if hidden and mark else hide(value)}"


# ---------------------------------------------------------------- the values themselves

SHORTEST = 4  # characters: hiding shorter values would hide half of every text
NUMBER = 6  # digits: shorter numbers are like any count of rows
LONG = 8  # characters: values of this length are also hidden within longer words
ORDINARY = frozenset(
    {"true", "false", "none", "null", "test", "demo", "user", "root", "admin", "local", "default", "anonymous"}
)
_learnt: set[str] = set()


def learn(values: Iterable[str]) -> None:
    """Make `hide` hide these values as well from now on."""
    new = {each for value in values for each in (value, *_pieces(value)) if _is_telling(each)} - _learnt
    if new:
        _learnt.update(new)
        _pattern.cache_clear()


def _pieces(value: str) -> list[str]:
    """Return the parts of a value that are secrets alone: the token after `Bearer`, lines of a key, parts of a connection string."""
    return [piece for piece in re.split(r"[\s;,=]+", value) if len(piece) >= LONG and not _is_word(piece)]


def _is_word(value: str) -> bool:
    return value.isalpha() and (value.islower() or value.isupper() or value.istitle())


def known() -> frozenset[str]:
    """Return the values that `hide` was given in this process, so that another process can `learn` them."""
    return frozenset(_learnt)


def _is_telling(value: str) -> bool:
    """Return whether a value is worth hiding: `true`, `0000` and the path of an existing file are not secrets."""
    return (
        len(value) >= SHORTEST
        and len(set(value)) > 2
        and not (value.isdecimal() and len(value) < NUMBER)
        and value.lower() not in ORDINARY | NO_TOKEN
        and not os.path.exists(value)  # noqa: PTH110 (the value may be anything)
    )


def secret_values(raw: Any, resolved: Any, key: str = "") -> Iterator[str]:
    """Yield the credentials in a config: values of secret keys, passwords in URIs, and values of variables with a secret's name.

    Args:
        raw: The config as it was written, with its references.
        resolved: The same config with its references resolved.
        key: The key whose value both are; `""` for the whole config.
    """
    if isinstance(resolved, Mapping):
        for name, value in resolved.items():
            below = raw.get(name) if isinstance(raw, Mapping) else raw
            yield from secret_values(below, value, f"{key}.{name}" if key else str(name))
    elif isinstance(resolved, list):
        for i, value in enumerate(resolved):
            same = isinstance(raw, list) and len(raw) == len(resolved)
            yield from secret_values(raw[i] if same else raw, value, f"{key}[{i}]")
    elif isinstance(resolved, str | int) and not isinstance(resolved, bool):
        yield from _values(key, raw, str(resolved))


def _values(key: str, raw: Any, value: str) -> Iterator[str]:
    if is_secret(key) and not is_harmless(value):
        yield value
    yield from looks_like_one(value)
    for name in ENVIRONMENT.findall(raw) if isinstance(raw, str) else ():
        if names_one(name):
            yield os.environ.get(name, "")


def learn_environment() -> None:
    """Learn the values of this process's variables that have the name of a credential, such as `AWS_SECRET_ACCESS_KEY`."""
    learn(value for name, value in os.environ.items() if names_one(name) and name != "PWD")


def hide(text: str) -> str:
    """Return the text with `***` in place of every known secret value, and of everything that looks like a credential.

    A value of 8 characters or more is hidden anywhere. A shorter one, or a plain word, is hidden only where it stands alone. A value of
    fewer than 4 characters (a number: 6 digits) or an ordinary word (`true`) is never hidden, because a text would then be all stars.
    """
    text = without_lookalikes(text)
    pattern = _pattern()
    return text if pattern is None else pattern.sub(HIDDEN, text)


def hidden(node: Any) -> Any:
    """Return a copy of plain data with every text in it passed through `hide`; keys stay as they are."""
    if isinstance(node, Mapping):
        return {name: hidden(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [hidden(value) for value in node]
    return hide(node) if isinstance(node, str) else node


@functools.cache
def _pattern() -> re.Pattern[str] | None:
    longest_first = sorted({form for value in _learnt for form in _forms(value)}, key=len, reverse=True)
    return re.compile("|".join(map(_anywhere_or_alone, longest_first))) if longest_first else None


def _forms(value: str) -> set[str]:
    """Return the spellings of a value in messages: as it is, in a URL, in JSON, in Python."""
    return {value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], repr(value)[1:-1]}


def _anywhere_or_alone(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= LONG and not _is_word(form) else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"


learn_environment()
