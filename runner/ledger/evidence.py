"""Compare what receipts, plans and the listing say of the same part. Pure functions: no storage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from runner.ledger.records import Entry
from runner.types import Shard


def settled(
    told: Iterable[tuple[str, Entry]], sizes: Mapping[str, int | None]
) -> tuple[dict[str, bytes], dict[str, int]]:
    """What the receipts say of the listed parts, and the parts that they contradict.

    A part may have several receipts, since a shard may be done more than once: the last one that tells of the listed size holds.

    Args:
        told: Shards and what their receipts say, oldest first.
        sizes: Of the listed parts, by shard; `None` where it is not known.

    Returns:
        A packed entry by shard, empty where there is no receipt; and for each part whose size no receipt tells of, the bytes that the
        last one tells of. Such a part was cut off, or replaced: it is no longer what was committed.
    """
    entries = dict.fromkeys(sizes, b"")
    others: dict[str, int] = {}
    for shard, entry in told:
        if shard in sizes:
            if sizes[shard] in (entry.bytes, None):
                entries[shard] = entry.packed()
            else:
                others[shard] = entry.bytes
    return entries, {shard: size for shard, size in others.items() if not entries[shard]}


def wrong_count(shard: Shard, rows: int, skipped: Collection[str], *, filtered: bool) -> str | None:
    """Why so many rows cannot have been read for a shard, as far as its plan knows; `None` where they can.

    Args:
        shard: As it was planned.
        rows: Predicted and quarantined.
        skipped: Input files that were left out by name, perhaps after the part was written.
        filtered: Whether `source.filters` leave out rows, which the plan does not count.
    """
    if shard.rows is None:
        return None
    left_out = sum(each.rows or 0 for each in shard.fragments if each.input.name in skipped)
    least = 0 if filtered else shard.rows - left_out
    if least <= rows <= shard.rows:
        return None
    return f"{rows:,} rows were read, {shard.rows if rows > shard.rows else least:,} were planned"
