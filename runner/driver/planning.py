"""From fragments to shards, and in which order they are predicted. Pure functions: no storage, no clock, no Ray."""

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
LARGEST_SHARD = 128 * MIB
SMALLEST_AUTO_SHARD = MIB
WANTED_SHARDS = 64


def target_bytes(total: int) -> int:
    """The shard size that `shard_bytes=auto` means for an input of `total` bytes.

    128 MiB, and finer for small inputs so that they still spread over about 64 workers, but never under 1 MiB. Only the
    input decides: were it the cluster, the same job would write other parts elsewhere.
    """
    return min(LARGEST_SHARD, max(SMALLEST_AUTO_SHARD, total // WANTED_SHARDS))


def make_shards(
    fragments: Sequence[Fragment], shard_bytes: int | None, first_sequence: int = 0, fingerprint: str = ""
) -> list[Shard]:
    """Group fragments, in input order, into shards of about `shard_bytes`.

    Args:
        fragments: All that is to be predicted, each file's fragments together and in order.
        shard_bytes: Target size: a shard is closed before it would pass it. `None`: one shard per file.
        first_sequence: Number of the first shard.
        fingerprint: Of the job; parts of different jobs never share a name.

    Raises:
        ConfigError: Nothing tells two fragments apart.
    """
    refuse_twice(fragments)
    groups = _per_file(fragments) if shard_bytes is None else _towards(fragments, shard_bytes)
    return [_shard(first_sequence + i, group, fingerprint) for i, group in enumerate(groups)]


def _per_file(fragments: Sequence[Fragment]) -> Iterator[list[Fragment]]:
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
    """Whether one fragment ends where the next begins: what lies apart is read apart."""
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
    """What tells a fragment from every other: its input, and its span.

    Where there is no span, the first row tells; it is left out for the beginning of an input, so that a whole file has the id that
    it always had.
    """
    begins = [fragment.first_row] if fragment.span is None and fragment.first_row else []
    return [fragment.input.name, fragment.input.version, fragment.span, *begins]


def refuse_twice(fragments: Iterable[Fragment]) -> None:
    """Refuse fragments that nothing tells apart: their shards would have one id, and one would be taken for the other.

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
    """Largest first, so that no big shard starts last and runs alone; ties in input order."""
    ordered = sorted(shards, key=lambda shard: shard.sequence)
    ordered.sort(key=lambda shard: shard.bytes, reverse=True)  # which leaves ties as they are
    return ordered


def keeps_workers_idle(shards: Sequence[Shard], shard_bytes: int, workers: int) -> list[Shard]:
    """The shards that cannot be made smaller, although `shard_bytes` asked for that, and that end long after all others.

    A worker that predicts such a shard has twice or more of what would be its share.
    """
    share = sum(shard.bytes for shard in shards) / max(1, workers)
    return [
        shard
        for shard in shards
        if len(shard.fragments) == 1 and shard.bytes > shard_bytes and shard.bytes >= 2 * share and _is_one(shard)
    ]


def _is_one(shard: Shard) -> bool:
    """Whether its fragment is a piece that its source cannot split, and not several that have been joined."""
    first = shard.fragments[0]
    return not first.joinable or _range(first)[1] - _range(first)[0] <= 1
