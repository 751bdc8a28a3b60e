"""Keep credentials out of everything that is written: which keys hold one, and a config without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

SEGMENT = re.compile(
    r"secret|(^|_)(password|passwd|passphrase|pwd|credentials?|private_key|account_key|access_key|api_?key|connection_string)$"
    r"|(^|_)(access|auth|session|sas|security|bearer|refresh|api|hf|github)_token$",
    re.IGNORECASE,
)
TOKEN = re.compile(r"(storage_options\.|env_vars\.(\w+_)?)token(\.|$)|env_vars\.\w+_key$", re.IGNORECASE)
NO_TOKEN = frozenset({"anon", "browser", "cache", "cloud", "google_default"})  # gcsfs: ways to get one
IN_URI = re.compile(r"(\w://[^/@\s:]*:)([^/@\s]+)(@)")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
MENTION = re.compile(  # within a mapping that was typed as one
    r"(secret|password|passwd|private_key|account_key|access_key|api_?key|token)\w*\s*['\"]?\s*:", re.IGNORECASE
)
HIDDEN = "***"
LONGEST = 120


def is_secret(key: str) -> bool:
    """Whether a key, given with its path, holds a credential, or lies below one that does."""
    return any(SEGMENT.search(segment.partition("[")[0]) for segment in key.split(".")) or bool(TOKEN.search(key))


def literals(node: Any) -> list[str]:
    """Keys of an unresolved config that hold a secret in plain text, directly or by reference, not as `${oc.env:NAME}`."""
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
    if isinstance(value, str) and (found := IN_URI.search(value)):
        return "${" not in found[2]
    return is_secret(key) and _plain_text(value, root, 8)


def _plain_text(value: Any, root: Any, depth: int) -> bool:
    """Whether a secret key's value is there to read; `${vars.password}` is followed to what it refers to."""
    if isinstance(value, bool) or value in (None, "", "???") or (isinstance(value, str) and value in NO_TOKEN):
        return False
    if not isinstance(value, str) or "${" not in value:
        return True
    return depth > 0 and any(_plain_text(_at(root, name), root, depth - 1) for name in REFERENCE.findall(value))


def _at(root: Any, name: str) -> Any:
    for segment in name.split("."):
        root = root.get(segment) if isinstance(root, Mapping) else None
    return None if isinstance(root, Mapping) else root


def redacted(node: Any, key: str = "") -> Any:
    """A copy with every secret's value hidden; references to the environment stay."""
    if isinstance(node, Mapping):
        return {name: redacted(value, f"{key}.{name}") for name, value in node.items()}
    if isinstance(node, list):
        return [redacted(value, key) for value in node]
    if is_secret(key) and _plain_text(node, {}, 0):
        return HIDDEN
    return IN_URI.sub(_without_password, node) if isinstance(node, str) else node


def _without_password(match: re.Match[str]) -> str:
    return match[0] if match[2].startswith("${") else f"{match[1]}{HIDDEN}{match[3]}"


def holds_password(uri: Any) -> bool:
    """Whether a URI carries a password, as in `sftp://user:password@host/`."""
    return isinstance(uri, str) and IN_URI.search(uri) is not None


def shown(key: str, value: Any) -> str:
    """`key=value` for a message, as it would be typed, without secrets: any storage option may be one."""
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
    """An override as it was typed, its value hidden where it may hold a secret."""
    key, mark, value = re.sub(r"\\(.)", r"\1", override).partition("=")  # Hydra escapes what it repeats
    path = key.lstrip("+~")
    hidden = is_secret(path) or "storage_options" in path or MENTION.search(value) or IN_URI.search(value)
    return f"{key}{mark}{HIDDEN if hidden and mark else value}"
