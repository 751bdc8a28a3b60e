"""The planner: shards partition the input exactly, the same every time; and how many workers fit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.driver import planning
from runner.driver.planning import MIB, execution_order, make_shards, target_bytes
from runner.errors import ConfigError
from runner.fingerprint import compare
from runner.ledger import records
from runner.ledger.records import from_rows, to_rows
from runner.modes.fit import demands, fit
from runner.types import Fragment, Input, Resources


@st.composite
def inputs(draw: st.DrawFn) -> list[Fragment]:
    """Fragments of some files, as sources give them: each file's together and in order."""
    fragments: list[Fragment] = []
    for i in range(draw(st.integers(0, 8))):
        folder = draw(st.sampled_from(["", "k=1", "k=2"]))
        file = Input(f"{folder}/{i}", draw(st.integers(0, 50)), draw(st.sampled_from(["v", "w"])), folder)
        if draw(st.booleans()):
            fragments.append(Fragment(file, file.size, draw(st.none() | st.integers(0, 9))))
            continue
        first = 0
        for group in range(draw(st.integers(1, 4))):
            rows = draw(st.integers(0, 9))
            fragments.append(Fragment(file, draw(st.integers(0, 20)), rows, first, (group, group + 1), True))
            first += rows
    return fragments


SIZES = st.none() | st.integers(1, 60)


def pieces(fragment: Fragment) -> list[tuple[str, int]]:
    """The row groups of a fragment, or the file."""
    groups = range(*fragment.span) if fragment.span else [-1]
    return [(fragment.input.name, group) for group in groups]


@given(inputs(), SIZES)
def test_shards_partition_the_input_in_order(fragments: list[Fragment], size: int | None) -> None:
    shards = make_shards(fragments, size, 7)
    planned = [piece for shard in shards for fragment in shard.fragments for piece in pieces(fragment)]
    assert planned == [piece for fragment in fragments for piece in pieces(fragment)]
    assert [shard.sequence for shard in shards] == list(range(7, 7 + len(shards)))
    assert sum(shard.bytes for shard in shards) == sum(fragment.bytes for fragment in fragments)
    counts = [fragment.rows for fragment in fragments]
    if None not in counts:
        assert sum(shard.rows or 0 for shard in shards) == sum(count or 0 for count in counts)


@given(inputs(), SIZES)
def test_a_joined_fragment_knows_its_first_row_and_its_rows(fragments: list[Fragment], size: int | None) -> None:
    for shard in make_shards(fragments, size):
        for joined in shard.fragments:
            parts = [each for each in fragments if set(pieces(each)) <= set(pieces(joined))]
            assert joined.first_row == parts[0].first_row
            assert joined.bytes == sum(part.bytes for part in parts)
            if joined.joinable:
                assert joined.rows == sum(part.rows or 0 for part in parts)


@given(inputs(), st.integers(1, 60))
def test_shards_never_mix_folders_nor_pass_their_size(fragments: list[Fragment], size: int) -> None:
    shards = make_shards(fragments, size)
    for shard in shards:
        assert {fragment.input.folder for fragment in shard.fragments} == {shard.folder}
        assert (
            shard.bytes <= size or sum(len(pieces(fragment)) for fragment in shard.fragments) == 1 or _rest_empty(shard)
        )
    for one, other in itertools.pairwise(shards):  # nothing that fits together lies apart
        assert one.folder != other.folder or one.bytes + _first_bytes(other, fragments) > size


def _rest_empty(shard: Any) -> bool:
    """Whether a piece that is too large by itself was joined by pieces of no bytes only."""
    return len(shard.fragments) > 1 and min(fragment.bytes for fragment in shard.fragments) == 0


def _first_bytes(shard: Any, fragments: list[Fragment]) -> int:
    first = pieces(shard.fragments[0])[0]
    return next(each.bytes for each in fragments if pieces(each)[0] == first)


@given(inputs())
def test_without_a_size_a_shard_is_a_file(fragments: list[Fragment]) -> None:
    shards = make_shards(fragments, None)
    assert [shard.fragments[0].input.name for shard in shards] == list(dict.fromkeys(f.input.name for f in fragments))
    assert all(len(shard.fragments) == 1 for shard in shards)


@given(inputs(), SIZES)
def test_the_same_input_gives_the_same_shards_and_ids_tell_them_apart(
    fragments: list[Fragment], size: int | None
) -> None:
    shards = make_shards(fragments, size, 0, "f")
    assert make_shards(fragments, size, 0, "f") == shards
    ids = [shard.id for shard in shards]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 16 and set(each) <= set("0123456789abcdef") for each in ids)
    assert not set(ids) & {shard.id for shard in make_shards(fragments, size, 0, "another")}
    newer = [replace(fragment, input=replace(fragment.input, version="x")) for fragment in fragments]
    assert not set(ids) & {shard.id for shard in make_shards(newer, size, 0, "f")}


@given(inputs(), SIZES)
def test_a_plan_comes_back_from_its_rows(fragments: list[Fragment], size: int | None) -> None:
    shards = make_shards(fragments, size, 3, "f")
    rows = list(to_rows(shards))
    assert from_rows(rows) == shards
    assert all(len(row) == len(records.COLUMNS) for row in rows)


@given(inputs(), SIZES)
def test_the_largest_shards_start_first(fragments: list[Fragment], size: int | None) -> None:
    shards = make_shards(fragments, size)
    ordered = execution_order(reversed(shards))
    assert sorted(ordered, key=lambda shard: shard.sequence) == shards
    keys = [(-shard.bytes, shard.sequence) for shard in ordered]
    assert keys == sorted(keys)


PIECES = [Fragment(Input("a", 40, "v"), 10, 10, first) for first in range(0, 40, 10)]


@pytest.mark.parametrize("size", [None, 10, 25, 100])
def test_pieces_without_row_groups_are_told_apart_by_their_first_row(size: int | None) -> None:
    shards = make_shards(PIECES, size)
    assert [fragment for shard in shards for fragment in shard.fragments] == PIECES
    assert len({shard.id for shard in shards}) == len(shards)


def test_the_id_of_a_whole_file_and_of_row_groups_stays_what_it_was() -> None:
    file = Input("a", 2, "v")
    whole, groups = Fragment(file, 2, 5), [Fragment(file, 1, 5, 0, (0, 1), True), Fragment(file, 1, 5, 5, (1, 2), True)]
    assert [shard.id for shard in make_shards([whole], 1)] == ["2f414b23fdde2827"]
    assert [shard.id for shard in make_shards(groups, 1)] == ["feeda504e464e620", "3c3ec069b24095fc"]


def test_row_groups_with_others_between_them_are_not_joined() -> None:
    file = Input("a", 2, "v")
    groups = [Fragment(file, 1, 5, 0, (0, 1), True), Fragment(file, 1, 5, 10, (2, 3), True)]
    [shard] = make_shards(groups, None)
    assert list(shard.fragments) == groups


@pytest.mark.parametrize("pair", [(0, None), (7, None), (0, (0, 2))], ids=["whole", "same row", "same row groups"])
def test_fragments_that_nothing_tells_apart_are_refused(pair: tuple[int, tuple[int, int] | None]) -> None:
    file, (first_row, groups) = Input("a", 2, "v"), pair
    with pytest.raises(ConfigError, match=r"source: gives two fragments of a with .*first_row"):
        make_shards([Fragment(file, 1, 5, first_row, groups), Fragment(file, 1, 6, first_row, groups)], 1)


@pytest.mark.parametrize(
    ("span", "joinable", "expected"),
    [
        ([0, 1], False, "a tuple of plain values"),
        ((date(2026, 1, 1),), False, "a tuple of plain values"),
        (("a", ("b", [1])), False, "a tuple of plain values"),
        (None, True, "two whole numbers"),
        ((0, 1, 2), True, "two whole numbers"),
        (("a", "b"), True, "two whole numbers"),
    ],
)
def test_a_span_that_is_none_is_refused(span: Any, joinable: bool, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"source: gives a fragment of a with span=.*{expected}"):
        make_shards([Fragment(Input("a", 2, "v"), 1, 5, 0, span, joinable)], 1)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (0, MIB // 4),
        (MIB, MIB // 4),
        (8 * MIB, MIB // 2),
        (16 * MIB, MIB),
        (64 * MIB, MIB),
        (640 * MIB, 10 * MIB),
        (10**5 * MIB, 128 * MIB),
    ],
)
def test_the_automatic_size_follows_the_input(total: int, expected: int) -> None:
    assert target_bytes(total) == expected


@pytest.mark.parametrize(
    ("size", "rows", "shard_rows", "expected"),
    [
        (MIB // 2, 2_400, None, (MIB // 4, 150)),  # 16 shards
        (MIB // 2, 100, None, (MIB // 4, 17)),  # 6 of at least 16 rows
        (MIB // 2, 31, None, (MIB // 4, None)),
        (8 * MIB, 10**6, None, (MIB // 2, 5 * 10**5)),  # two: a row group is not decoded over and over again
        (64 * MIB, 10**6, None, (MIB, None)),
        (MIB // 2, None, None, (MIB // 4, None)),
        (MIB // 2, 2_400, 1_000, (MIB // 4, 1_000)),
    ],
)
def test_the_rows_of_a_small_input_are_shared(
    size: int, rows: int | None, shard_rows: int | None, expected: tuple[int, int | None]
) -> None:
    fragments = [Fragment(Input("a", size, "v"), size, rows)]
    assert planning.target(fragments, "auto", shard_rows) == expected
    assert planning.target(fragments, 7, shard_rows) == (7, shard_rows)


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(1, 9)), max_size=12), st.integers(1, 20), SIZES)
def test_a_shard_is_closed_by_whichever_is_reached_first(
    files: list[tuple[int, int | None]], most_rows: int, size: int | None
) -> None:
    fragments = [Fragment(Input(str(i), each[0], "v"), *each) for i, each in enumerate(files)]
    for shard in make_shards(fragments, size, shard_rows=most_rows):
        if len(shard.fragments) > 1:
            assert size is not None, "null keeps files apart"
            assert shard.bytes <= size
            assert sum(each.rows or 0 for each in shard.fragments) <= most_rows


def test_pieces_are_joined_where_they_count_the_same() -> None:
    file = Input("a", 9, "v")
    spans = [(0, 1), ("rows", 5, 7), ("rows", 7, 9), ("rows", 10, 12), (2, 3), (3, 4)]
    [shard] = make_shards([Fragment(file, 1, 2, i, span, True) for i, span in enumerate(spans)], None)
    assert [each.span for each in shard.fragments] == [(0, 1), ("rows", 5, 9), ("rows", 10, 12), (2, 4)]
    assert [shard] == from_rows(to_rows([shard]))


# ---------------------------------------------------------------- does it fit?

AMOUNTS = st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0, 1.5, 2.0, 7.0])
NODES = st.lists(st.dictionaries(st.sampled_from(["CPU", "GPU", "disk"]), AMOUNTS), max_size=4)


def by_hand(nodes: list[dict[str, float]], asked: Mapping[str, float]) -> int:
    """Place workers one after the other until none fits, in thousandths, to be exact."""
    count = 0
    for node in nodes:
        left = {name: round(amount * 1000) for name, amount in node.items()}
        while all(left.get(name, 0) >= round(amount * 1000) for name, amount in asked.items()):
            left = {name: amount - round(asked.get(name, 0) * 1000) for name, amount in left.items()}
            count += 1
    return count


@given(NODES, AMOUNTS, AMOUNTS, AMOUNTS)
def test_as_many_fit_as_can_be_placed_by_hand(
    nodes: list[dict[str, float]], cpus: float, gpus: float, disk: float
) -> None:
    resources = Resources(num_cpus=cpus, num_gpus=gpus, resources={"disk": disk})
    asked = demands(resources)
    assert set(asked) == {name for name, amount in (("CPU", cpus), ("GPU", gpus), ("disk", disk)) if amount}
    if asked:
        assert fit(nodes, resources).count == by_hand(nodes, asked)


def test_the_arithmetic_is_shown() -> None:
    nodes = [{"CPU": 2.0, "memory": 1024.0 * MIB}, {"CPU": 3.0, "memory": 300.0 * MIB}]
    found = fit(nodes, Resources(num_cpus=1, memory=400 * MIB))
    assert found.count == 2
    assert found.arithmetic == "CPU: 5 / 1; memory: 1,324 MiB / 400 MiB per worker, on 2 nodes, counted on each"


def test_a_worker_that_asks_for_nothing_fits_once_per_cpu() -> None:
    assert fit([{"CPU": 2.0}, {"CPU": 3.0}], Resources(num_cpus=0)).count == 5
    assert fit([{}], Resources(num_cpus=0)).count == 1


def test_an_accelerator_is_asked_for_as_ray_does() -> None:
    resources = Resources(num_cpus=0, accelerator_type="A100")
    assert demands(resources) == {"accelerator_type:A100": 0.001}
    assert fit([{"accelerator_type:A100": 1.0}, {"CPU": 8.0}], resources).count == 1000


# ---------------------------------------------------------------- fingerprints


def test_a_fingerprint_depends_on_the_fields_and_not_on_their_order() -> None:
    one, other = {"a": 1, "b": [1, 2]}, {"b": [1, 2], "a": 1}
    assert compare.fingerprint(one) == compare.fingerprint(other)
    assert compare.fingerprint(one) != compare.fingerprint({**one, "a": 2})


def test_differences_are_named_with_both_sides() -> None:
    assert compare.differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == {
        "b": (2, 4), "c": (3, compare.NOT_GIVEN), "d": (compare.NOT_GIVEN, 5)}  # fmt: skip


# ---------------------------------------------------------------- what cannot be split


def whole(name: str, size: int) -> Fragment:
    return Fragment(Input(name, size, "v", ""), size)


@pytest.mark.parametrize(
    ("sizes", "shard_bytes", "workers", "told"),
    [
        ([100], 10, 8, [100]),  # one file for all of them
        ([100], 10, 2, [100]),
        ([100], 10, 1, []),  # there is nobody else
        ([100], 100, 8, []),  # it was to be as large
        ([100, 100, 100, 100], 10, 4, []),
        ([100, 100], 10, 4, [100, 100]),
        ([10] * 50 + [1_000], 10, 8, [1_000]),  # the others end long before it
        ([10] * 50 + [60], 10, 8, []),
        ([5, 5], 20, 8, []),  # joined, as was asked for
        ([], 20, 8, []),
    ],
)
def test_a_shard_that_cannot_be_split_is_told_where_others_have_nothing_to_do(
    sizes: list[int], shard_bytes: int, workers: int, told: list[int]
) -> None:
    shards = make_shards([whole(str(i), size) for i, size in enumerate(sizes)], shard_bytes)
    assert [shard.bytes for shard in planning.keeps_workers_idle(shards, shard_bytes, workers)] == told


@given(inputs(), st.integers(1, 60))
def test_only_what_cannot_be_split_is_larger_than_was_asked_for(fragments: list[Fragment], shard_bytes: int) -> None:
    for shard in make_shards(fragments, shard_bytes):
        if shard.bytes > shard_bytes:
            assert [*shard.fragments] in [[fragment] for fragment in fragments]
