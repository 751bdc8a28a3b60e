"""Recognises credentials: by the name of a key or variable, and by how a text looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

HIDDEN = "***"
SEGMENT = re.compile(  # matches in one segment of a key, or in the name of an environment variable, that holds a credential
    r"secret|(^|_)(password|passwd|passphrase|pwd|credentials?|private_?key|account_?key|access_?key|api_?key|connection_string"
    r"|(proxy_)?authorization|cookie|bearer|token)$|(auth|access|session|refresh|api|id)token$|^pgpassword$",
    re.IGNORECASE,
)
OF_TEXT = re.compile(  # keys named `..._token` that hold a piece of a model's vocabulary
    r"(^|_)(pad|eos|bos|sos|unk|unknown|mask|sep|cls|stop|start|end|begin|first|last|next|image|audio|video|special|prefix|suffix"
    r"|newline|blank|oov|per|max|min|num|by)_token$", re.IGNORECASE
)  # fmt: skip
ENVIRONMENT_KEY = re.compile(r"env_vars\.\w+_key$", re.IGNORECASE)
NO_TOKEN = frozenset(
    {"anon", "browser", "cache", "cloud", "google_default"}
)  # values of gcsfs' `token` that say how to get one
IN_URI = re.compile(  # user:password@ in a URI. A password may contain a slash; digits and a slash after the colon are a port
    r"(\w://(?:\$\{[^}]*\}|[^/@\s:'\"$])*:)(?!\d+/)((?:\$\{[^}]*\}|[^@\s'\"])+)(@)"
)
IN_QUERY = re.compile(
    r"([?&;](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|signature|token|access_token"
    r"|api_?key|password|secret)=)([^&\s'\"#]+)", re.IGNORECASE
)  # fmt: skip
IN_HEADER = re.compile(r"(\b(?:Bearer|Basic)\s+)(?=\S*\d)([\w.~+/=-]{8,})")
SHAPES = re.compile(  # keys and tokens of well-known services, which are recognised anywhere in a text
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)


def is_secret(key: str) -> bool:
    """Return whether a key, given as its whole path, holds a credential or is below a key that does."""
    return any(map(names_one, key.split("."))) or bool(ENVIRONMENT_KEY.search(key))


def names_one(segment: str) -> bool:
    """Return whether a segment of a key, or the name of a variable, names a credential."""
    name = segment.partition("[")[0].replace("-", "_")
    return bool(SEGMENT.search(name)) and not OF_TEXT.search(name)


def looks_like_one(text: str) -> Iterator[str]:
    """Yield what looks like a credential in a text. It may be a reference such as `${oc.env:NAME}`, as it was written."""
    for pattern in (IN_URI, IN_QUERY, IN_HEADER):
        yield from (found[2] for found in pattern.finditer(text))
    yield from (found[0] for found in SHAPES.finditer(text))


def is_harmless(value: Any) -> bool:
    """Return whether the value of a secret key is none: a way to get a token, or a piece of a model's vocabulary such as `<pad>`."""
    return isinstance(value, str) and (value in NO_TOKEN or bool(re.fullmatch(r"<[^>]*>|\[[^]]*\]", value)))


def without_lookalikes(text: str) -> str:
    """Return the text with `***` in place of what looks like a credential."""
    for pattern in (IN_URI, IN_QUERY, IN_HEADER):
        text = pattern.sub(_without_secret, text)
    return SHAPES.sub(HIDDEN, text)


def _without_secret(match: re.Match[str]) -> str:
    """Return a match with its credential hidden; a reference such as `${oc.env:NAME}` stays as it is."""
    return match[0] if match[2].startswith("${") else "".join([match[1], HIDDEN, *match.groups()[2:]])
