"""Group fragments into shards, and order the shards for execution. Pure functions: no storage, no clock, no Ray."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from runner.errors import ConfigError
from runner.types import Auto, Fragment, Input, Shard

MIB = 1024**2
LARGEST_SHARD = 128 * MIB  # of shard_bytes=auto
WANTED_SHARDS = 64
SMALL_INPUT = 16 * MIB  # fewer and finer shards
SMALLEST_SHARD = 256 * 1024
WANTED_OF_SMALL = 16  # shards: one costs about 2 ms
LEAST_ROWS = 16  # of a shard of a small input


class Target(NamedTuple):
    """How large a shard is to be: whichever is reached first.

    Attributes:
        bytes: Stored bytes of the input; `None` keeps each input apart, and divides none.
        rows: Rows, where they are known or estimated; `None` for any number.
    """

    bytes: int | None
    rows: int | None = None


def target(fragments: Sequence[Fragment], shard_bytes: int | Auto | None, shard_rows: int | None) -> Target:
    """Return what `shard_bytes` and `shard_rows` mean for an input.

    Only the input decides: if the cluster did, the same job would write other parts on another cluster.
    """
    total = sum(fragment.bytes for fragment in fragments)
    if shard_bytes != "auto":
        return Target(shard_bytes, shard_rows)
    return Target(target_bytes(total), shard_rows or _small_rows(fragments, total))


def target_bytes(total: int) -> int:
    """Return the shard size that `shard_bytes=auto` means for an input of `total` bytes: a 64th, at most 128 MiB.

    A small input, below 16 MiB, gets fewer shards: a 16th is one, but at least 256 KiB.
    """
    if total < SMALL_INPUT:
        return max(SMALLEST_SHARD, min(MIB, -(-total // WANTED_OF_SMALL)))
    return min(LARGEST_SHARD, max(MIB, total // WANTED_SHARDS))


def _small_rows(fragments: Sequence[Fragment], total: int) -> int | None:
    """Return the rows of a shard of a small input; `None` for an input that is large, or of unknown rows.

    A few rows may keep a model busy for long, so even 500 KB of texts are shared by many workers. Of an input of some MiB there are fewer
    shards: every piece of a row group costs reading and decoding the row group up to there, 16 MiB of it at most in all.
    """
    rows = [fragment.probable_rows for fragment in fragments]
    known = sum(count for count in rows if count is not None)
    if total > SMALL_INPUT or None in rows:
        return None
    shards = min(WANTED_OF_SMALL, known // LEAST_ROWS, SMALL_INPUT // max(1, total))
    return -(-known // shards) if shards > 1 else None


def too_large(fragment: Fragment, wanted: Target) -> bool:
    """Return whether a fragment is to be divided, if its source can do that."""
    rows = fragment.probable_rows
    by_rows = wanted.rows is not None and rows is not None and rows > wanted.rows
    return by_rows or (wanted.bytes is not None and fragment.bytes > wanted.bytes)


def make_shards(
    fragments: Sequence[Fragment],
    shard_bytes: int | None,
    first_sequence: int = 0,
    fingerprint: str = "",
    shard_rows: int | None = None,
) -> list[Shard]:
    """Group fragments, in input order, into shards of about `shard_bytes` or `shard_rows`, whichever is reached first.

    Args:
        fragments: All that is to be predicted. The fragments of one input stand together, in order.
        shard_bytes: Target size: a shard is closed before it would become larger. `None`: one shard per input.
        first_sequence: Number of the first shard.
        fingerprint: The job's; it is part of the ids, so that parts of different jobs never have the same name.
        shard_rows: Target rows, likewise. `None`: any number.

    Raises:
        ConfigError: Nothing tells two fragments apart, or a span is not what it must be.
    """
    for fragment in fragments:
        _refuse_wrong_span(fragment)
    refuse_twice(fragments)
    groups = _towards(fragments, Target(shard_bytes, shard_rows))
    return [_shard(first_sequence + i, group, fingerprint) for i, group in enumerate(groups)]


def _towards(fragments: Sequence[Fragment], wanted: Target) -> Iterator[list[Fragment]]:
    most_bytes, most_rows = (limit or math.inf for limit in wanted)
    shard: list[Fragment] = []
    size = count = 0
    for fragment in fragments:
        rows = fragment.probable_rows or 0
        full = size + fragment.bytes > most_bytes or count + rows > most_rows
        if shard and (full or _apart(shard[0].input, fragment.input, wanted)):
            yield shard
            shard, size, count = [], 0, 0
        shard.append(fragment)
        size, count = size + fragment.bytes, count + rows
    if shard:
        yield shard


def _apart(one: Input, other: Input, wanted: Target) -> bool:
    """Return whether two inputs must not be in one shard."""
    return one.name != other.name if wanted.bytes is None else one.folder != other.folder


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
    return both and (*_range(first)[:-2], _range(first)[-1]) == _range(second)[:-1]


def _range(fragment: Fragment) -> tuple[Any, ...]:
    assert fragment.span is not None
    return fragment.span


def _join(first: Fragment, second: Fragment) -> Fragment:
    rows = None if first.rows is None or second.rows is None else first.rows + second.rows
    span = *_range(first)[:-1], _range(second)[-1]
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
        expected = "(begin, end), two whole numbers, perhaps behind a text, as the fragment is joinable"
    elif span is None or _is_range(span) or _is_plain(span):
        return
    else:
        expected = "a tuple of plain values (texts, numbers, None, tuples of these), or None"
    raise ConfigError(f"source: gives a fragment of {fragment.input.name} with span={span!r:.80}; expected {expected}")


def _is_range(span: Any) -> bool:
    ends = span[-2:] if isinstance(span, tuple) else ()
    named = len(ends) == 2 and all(type(each) is str for each in span[:-2])
    return named and all(type(end) is int for end in ends)


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
    return not first.joinable or _range(first)[-1] - _range(first)[-2] <= 1
