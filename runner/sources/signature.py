"""Tells what a file is by its first bytes (magic numbers), whatever its name and the config say."""

from __future__ import annotations

import contextlib
import re
from typing import Any

HEAD = 64  # bytes at the beginning of a file that are looked at
# First bytes of a file, what they mean, and what to do if something else was expected.
SIGNATURES = (
    (b"PAR1", "Parquet", "source=parquet reads it"),
    (b"PARE", "encrypted Parquet", "decrypt it first"),
    (b"ARROW1", "Arrow", "source=arrow reads it"),
    (b"ORC", "ORC", "source=orc reads it"),
    (b"\x1f\x8b", "gzip", "name it .gz"),
    (b"BZh", "bz2", "name it .bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd", "name it .zst"),
    (b"\x04\x22\x4d\x18", "lz4", "name it .lz4"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\xff\xfe", "UTF-16 text", "convert it to UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it to UTF-8"),
)
WEB = ("a web page", "what was fetched was a server's answer, not the file")
TEXT = ("plain text", "source=csv or source=jsonl reads text")
OWN = {"parquet": "Parquet", "arrow": "Arrow", "orc": "ORC"}
COMPRESSED = frozenset({"gzip", "bz2", "zstd", "lz4"})


def kind_of(head: bytes) -> tuple[str, str] | None:
    """Return what a file with these first bytes is, and what to do about it; `None` if they are those of no known kind."""
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|\?xml)", head, re.IGNORECASE):
        return WEB
    if known := next(((kind, remedy) for magic, kind, remedy in SIGNATURES if head.startswith(magic)), None):
        return known
    return TEXT if head and not _is_binary(head) else None


def refuse_other(head: bytes, codec: str | None) -> None:
    """Raise an error for a file that cannot be text, or is not compressed as its name says: parsers find rows in any bytes.

    Args:
        head: The first bytes of a file, as it is stored.
        codec: The compression that its extension names, `None` for none.

    Raises:
        ValueError: The file is something else; the message says what to do.
    """
    found = kind_of(head)
    if found is None or found[0] == codec:
        return
    if found == WEB or (found != TEXT and _is_binary(head)):
        raise ValueError(f"it begins like {found[0]}: {found[1]}")
    if codec in COMPRESSED:
        raise ValueError(f"it begins like plain text, not like {codec}: its extension says otherwise, rename it")


def _is_binary(head: bytes) -> bool:
    """Return whether there are bytes that no text contains, in any encoding."""
    return re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head) is not None or head[:1] in (b"\xff", b"\xfe")


def hint(stored: Any, own: str) -> str:
    """Return for a message what a file that could not be read looks like.

    Args:
        stored: The open file.
        own: What it should be, such as `Parquet`.
    """
    with contextlib.suppress(Exception):  # what could not be read before may be unreadable now
        stored.seek(0)
        found = kind_of(bytes(stored.read(HEAD)))
        if found is not None and found[0] == own:
            return f"; it begins as {own} does, so it was cut short or damaged"
        return "" if found is None else f"; it begins like {found[0]}: {found[1]}"
    return ""
