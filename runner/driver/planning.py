"""Group fragments into shards, and order the shards for execution. Pure functions: no storage, no clock, no Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from runner.errors import ConfigError
from runner.types import Fragment, Shard

MIB = 1024**2
LARGEST_SHARD = 128 * MIB  # of shard_bytes=auto
SMALLEST_AUTO_SHARD = MIB
WANTED_SHARDS = 64  # for a small input


def target_bytes(total: int) -> int:
    """The shard size that `shard_bytes=auto` means for an input of `total` bytes.

    128 MiB; for a small input less, so that about 64 workers share it, but at least 1 MiB. Only the input decides: if the
    cluster did, the same job would write other parts on another cluster.
    """
    return min(LARGEST_SHARD, max(SMALLEST_AUTO_SHARD, total // WANTED_SHARDS))


def make_shards(
    fragments: Sequence[Fragment], shard_bytes: int | None, first_sequence: int = 0, fingerprint: str = ""
) -> list[Shard]:
    """Group fragments, in input order, into shards of about `shard_bytes`.

    Args:
        fragments: All that is to be predicted. The fragments of one input stand together, in order.
        shard_bytes: Target size: a shard is closed before it would become larger. `None`: one shard per input.
        first_sequence: Number of the first shard.
        fingerprint: The job's; it is part of the ids, so that parts of different jobs never have the same name.

    Raises:
        ConfigError: Nothing tells two fragments apart, or a span is not what it must be.
    """
    for fragment in fragments:
        _refuse_wrong_span(fragment)
    refuse_twice(fragments)
    groups = _per_input(fragments) if shard_bytes is None else _towards(fragments, shard_bytes)
    return [_shard(first_sequence + i, group, fingerprint) for i, group in enumerate(groups)]


def _per_input(fragments: Sequence[Fragment]) -> Iterator[list[Fragment]]:
    for _, group in groupby(fragments, key=lambda fragment: fragment.input.name):
        yield list(group)


def _towards(fragments: Sequence[Fragment], shard_bytes: int) -> Iterator[list[Fragment]]:
    shard: list[Fragment] = []
    size = 0
    for fragment in fragments:
        if shard and (fragment.input.folder != shard[0].input.folder or size + fragment.bytes > shard_bytes):
            yield shard
            shard, size = [], 0
        shard.append(fragment)
        size += fragment.bytes
    if shard:
        yield shard


def _shard(sequence: int, fragments: list[Fragment], fingerprint: str) -> Shard:
    joined = tuple(_joined(fragments))
    return Shard(sequence, _shard_id(joined, fingerprint), joined[0].input.folder, joined)


def _joined(fragments: list[Fragment]) -> Iterator[Fragment]:
    """Neighbouring pieces of one input become one fragment: one open, one line in the plan."""
    held = fragments[0]
    for fragment in fragments[1:]:
        if _goes_on(held, fragment):
            held = _join(held, fragment)
        else:
            yield held
            held = fragment
    yield held


def _goes_on(first: Fragment, second: Fragment) -> bool:
    """Whether the second fragment begins where the first one ends."""
    both = first.joinable and second.joinable and first.input.name == second.input.name
    return both and _range(first)[1] == _range(second)[0]


def _range(fragment: Fragment) -> tuple[Any, ...]:
    assert fragment.span is not None
    return fragment.span


def _join(first: Fragment, second: Fragment) -> Fragment:
    rows = None if first.rows is None or second.rows is None else first.rows + second.rows
    span = _range(first)[0], _range(second)[1]
    return replace(first, bytes=first.bytes + second.bytes, rows=rows, span=span)


def _shard_id(fragments: Iterable[Fragment], fingerprint: str) -> str:
    total = hashlib.blake2b(fingerprint.encode(), digest_size=8)
    for fragment in fragments:
        total.update(json.dumps(_identity(fragment)).encode())
    return total.hexdigest()


def _identity(fragment: Fragment) -> list[Any]:
    """What identifies a fragment: its input and its span.

    Without a span its first row does. Row 0 is left out, so that the ids of whole files stay those of earlier versions.
    """
    begins = [fragment.first_row] if fragment.span is None and fragment.first_row else []
    return [fragment.input.name, fragment.input.version, fragment.span, *begins]


def _refuse_wrong_span(fragment: Fragment) -> None:
    """Refuse a span that the recorded plan would not give back, and a range that cannot be joined.

    Raises:
        ConfigError: A source gave such a fragment; the message says what its author can do.
    """
    span = fragment.span
    if fragment.joinable and not _is_range(span):
        expected = "(begin, end), two whole numbers, as the fragment is joinable"
    elif span is None or _is_range(span) or _is_plain(span):
        return
    else:
        expected = "a tuple of plain values (texts, numbers, None, tuples of these), or None"
    raise ConfigError(f"source: gives a fragment of {fragment.input.name} with span={span!r:.80}; expected {expected}")


def _is_range(span: Any) -> bool:
    return isinstance(span, tuple) and len(span) == 2 and all(type(end) is int for end in span)


def _is_plain(span: Any) -> bool:
    if isinstance(span, tuple):
        return all(value is None or type(value) in (str, int, float, bool) or _is_plain(value) for value in span)
    return False


def refuse_twice(fragments: Iterable[Fragment]) -> None:
    """Refuse two fragments with the same identity: their shards would have the same id, and one would count as the other.

    Raises:
        ConfigError: A source gave such fragments; the message says what its author can do.
    """
    seen: set[tuple[str, str, tuple[Any, ...] | None, int]] = set()
    for fragment in fragments:
        begins = fragment.first_row if fragment.span is None else 0
        key = (fragment.input.name, fragment.input.version, fragment.span, begins)
        if key in seen:
            place = f"span={fragment.span}" if fragment.span else f"first_row={fragment.first_row}"
            raise ConfigError(
                f"source: gives two fragments of {fragment.input.name} with {place}, which nothing tells apart; "
                "its `inspect` must give each fragment of an input another span, or another first_row"
            )
        seen.add(key)


def execution_order(shards: Iterable[Shard]) -> list[Shard]:
    """The largest shards first, so that no big one starts last and runs alone; equal ones in input order."""
    ordered = sorted(shards, key=lambda shard: shard.sequence)
    ordered.sort(key=lambda shard: shard.bytes, reverse=True)  # which leaves ties as they are
    return ordered


def keeps_workers_idle(shards: Sequence[Shard], shard_bytes: int, workers: int) -> list[Shard]:
    """The shards that end long after all others, because they are larger than `shard_bytes` and their source cannot split them.

    Such a shard is at least twice the share of one worker.
    """
    share = sum(shard.bytes for shard in shards) / max(1, workers)
    return [
        shard
        for shard in shards
        if len(shard.fragments) == 1 and shard.bytes > shard_bytes and shard.bytes >= 2 * share and _is_one(shard)
    ]


def _is_one(shard: Shard) -> bool:
    """Whether its fragment is one piece that its source cannot split, not several joined pieces."""
    first = shard.fragments[0]
    return not first.joinable or _range(first)[1] - _range(first)[0] <= 1
