"""Parts: the bytes follow from the values alone, every type comes back or is refused, rows are counted right."""

from __future__ import annotations

import datetime
import decimal
import io
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.sinks import formats
from runner.sinks.files import Files, FormatName
from runner.sources.files import Files as Source
from runner.types import Shard

FORMATS: tuple[FormatName, ...] = ("parquet", "csv", "jsonl", "arrow")
SHARD = Shard(3, "0123456789abcdef", "k=1", ())


def written(fmt: FormatName, schema: pa.Schema, *tables: pa.Table) -> bytes:
    file = io.BytesIO()
    sink = Files(fmt, "x")
    sink._format.write(file, schema, iter(tables))
    return file.getvalue()


def count_rows(fmt: FormatName, content: bytes) -> int:
    return Files(fmt, "x")._format.count_rows(io.BytesIO(content))


# ---------------------------------------------------------------- the same values, the same bytes

INNER = st.fixed_dictionaries({"p": st.none() | st.integers(0, 9), "q": st.text(max_size=2)})
VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "n": (pa.int32(), st.integers(-5, 5)),
    "x": (pa.float64(), st.floats(width=16)),
    "t": (pa.string(), st.text(max_size=3)),
    "b": (pa.bool_(), st.booleans()),
    "d": (pa.decimal128(6, 2), st.decimals(-9, 9, places=2)),
    "s": (pa.timestamp("us", "UTC"), st.integers(0, 9**9)),
    "v": (pa.list_(pa.float32(), 2), st.lists(st.none() | st.integers(0, 3), min_size=2, max_size=2)),
    "l": (pa.list_(pa.string()), st.lists(st.none() | st.text(max_size=2), max_size=3)),
    "u": (pa.struct([("p", pa.int8()), ("q", pa.string())]), INNER),
}  # fmt: skip
ROW = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in VALUES.items()})
SCHEMA = pa.schema({name: kind for name, (kind, _) in VALUES.items()})


def garbage_under_nulls(array: pa.Array) -> pa.Array:
    """The same values, with what is left over under the nulls changed where this can be done."""
    if not pa.types.is_primitive(array.type) or pa.types.is_boolean(array.type) or array.null_count == 0:
        return array
    data = bytes(0xAA for _ in range(array.type.bit_width // 8 * len(array)))
    kept = np.frombuffer(array.buffers()[1], np.uint8)[: len(data)].reshape(len(array), -1).copy()
    kept[np.asarray(array.is_null())] = 0xAA
    return pa.Array.from_buffers(array.type, len(array), [array.buffers()[0], pa.py_buffer(kept.tobytes())])


def in_pieces(table: pa.Table, cuts: list[int], sliced: bool) -> Iterator[pa.Table]:
    edges = sorted({0, table.num_rows, *(cut % (table.num_rows + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        if sliced:
            yield table.slice(start, end - start)
        else:
            yield pa.Table.from_pylist(table.slice(start, end - start).to_pylist(), schema=table.schema)


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=12), cuts=st.lists(st.integers(0, 30), max_size=4))
def test_bytes_follow_from_the_values_alone(fmt: FormatName, rows: list[dict[str, Any]], cuts: list[int]) -> None:
    names = ["n", "x", "t", "b", "d", "s"] if fmt == "csv" else SCHEMA.names
    whole = pa.Table.from_pylist(rows, schema=SCHEMA).select(names)
    expected = written(fmt, whole.schema, *([whole] if rows else []))
    assert written(fmt, whole.schema, *in_pieces(whole, cuts, True)) == expected
    assert written(fmt, whole.schema, *in_pieces(whole, cuts, False)) == expected
    dirty = pa.table([garbage_under_nulls(column.combine_chunks()) for column in whole.columns], schema=whole.schema)
    assert written(fmt, whole.schema, *in_pieces(dirty, cuts, True)) == expected
    assert count_rows(fmt, expected) == len(rows)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_validity_bitmap_that_says_nothing_does_not_show(fmt: FormatName) -> None:
    plain = pa.table({"n": pa.array([1, 2, 3]), "t": pa.array(["a", "b", "c"])})
    column = plain.column("n").chunk(0)
    marked = pa.Array.from_buffers(column.type, 3, [pa.py_buffer(b"\xff"), column.buffers()[1]], 0)
    assert written(fmt, plain.schema, plain.set_column(0, "n", marked)) == written(fmt, plain.schema, plain)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    "values", [[True, False, True] * 9, list(range(27)), [f"{i}" * i for i in range(27)]], ids=repr
)
def test_what_lies_beside_a_slice_does_not_show(fmt: FormatName, values: list[Any]) -> None:
    alone, cut = pa.table({"v": values[5:16]}), pa.table({"v": values}).slice(5, 11)
    assert written(fmt, alone.schema, cut) == written(fmt, alone.schema, alone)


@pytest.mark.parametrize("fmt", ["parquet", "jsonl", "arrow"])
def test_what_is_left_under_nulls_inside_of_vectors_does_not_show(fmt: FormatName) -> None:
    plain = pa.array([1.0, None, 3.0, 4.0], pa.float32())
    clean, dirty = (
        pa.table({"v": pa.FixedSizeListArray.from_arrays(values, 2)}) for values in (plain, garbage_under_nulls(plain))
    )
    assert clean.column("v").null_count == 0
    assert written(fmt, clean.schema, dirty) == written(fmt, clean.schema, clean)


@pytest.mark.parametrize("fmt", FORMATS)
def test_how_batches_encode_strings_does_not_show(fmt: FormatName) -> None:
    texts = ["b", None, "a", "b", "c"]
    schema = pa.schema([("t", pa.dictionary(pa.int32(), pa.string()))])
    whole = pa.table({"t": pa.array(texts).dictionary_encode()}, schema=schema)
    pieces = [pa.table({"t": pa.array(part).dictionary_encode()}, schema=schema) for part in (texts[:3], texts[3:])]
    view = pa.table({"t": pa.array(texts, pa.string_view())})
    expected = written(fmt, pa.schema([("t", pa.string())]), pa.table({"t": texts}))
    assert written(fmt, schema, whole) == written(fmt, schema, *pieces) == expected
    assert written(fmt, view.schema, view) == expected


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_groups_of_rows_are_the_same_however_batches_are_cut(fmt: FormatName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MOST_GROUP_ROWS", 7)
    table = pa.table({"n": range(40), "t": [str(i) for i in range(40)]})
    expected = written(fmt, table.schema, table)
    for size in (1, 3, 7, 8, 39):
        assert written(fmt, table.schema, *(table.slice(i, size) for i in range(0, 40, size))) == expected
    if fmt == "parquet":
        footer = pq.read_metadata(io.BytesIO(expected))
        assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [7, 7, 7, 7, 7, 5]


def test_wide_rows_make_short_groups() -> None:
    assert formats.group_rows(pa.schema([("n", pa.int64())])) == formats.MOST_GROUP_ROWS
    vector = formats.group_rows(pa.schema([("v", pa.list_(pa.float32(), 4096))]))
    assert vector * 4096 * 4 == formats.GROUP_BYTES


# ---------------------------------------------------------------- what comes back

TYPES: dict[str, pa.Array] = {
    "vector": pa.array([[1.5, 2.5], None, [3.5, None]], pa.list_(pa.float32(), 2)),
    "text": pa.array(["", None, 'a,"b"\n\r\u2028ß'], pa.string()),
    "decimal": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.25")], pa.decimal128(9, 2)),
    "stamp": pa.array([0, None, 1_500_000], pa.timestamp("us", "UTC")),
    "nanos": pa.array([0, None, 1], pa.timestamp("ns")),
    "date": pa.array([datetime.date(2026, 1, 2), None, None]),
    "time": pa.array([datetime.time(1, 2, 3), None, None], pa.time64("us")),
    "duration": pa.array([datetime.timedelta(seconds=1.5), None, None], pa.duration("us")),
    "struct": pa.array([{"p": 1, "q": ["x"]}, None, {"p": None, "q": []}]),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    "binary": pa.array([b"\x00\xff", None, b""]),
    "flag": pa.array([True, None, False]),
    "half": pa.array([1.5, None, 2.5], pa.float16()),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "large": pa.array(["a", None, "b"], pa.large_string()),
    "null": pa.nulls(3),
}
NOT_IN_CSV = {"vector", "struct", "map", "binary"}


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("fmt", FORMATS)
def test_every_type_is_written_or_refused_by_name(fmt: FormatName, name: str) -> None:
    table = pa.table({name: TYPES[name]})
    sink = Files(fmt, "x")
    if fmt == "csv" and name in NOT_IN_CSV:
        with pytest.raises(ConfigError, match=rf"sink\.format=csv: csv cannot hold {name} \("):
            sink.check(table.schema)
        return
    sink.check(table.schema)
    content = written(fmt, table.schema, table)
    assert count_rows(fmt, content) == 3
    if fmt == "parquet":
        assert pq.read_table(io.BytesIO(content)).equals(table)
    elif fmt == "arrow":
        assert pa.ipc.open_file(content).read_all().equals(table)


@pytest.mark.parametrize(
    ("fmt", "kind"),
    [
        ("parquet", pa.struct([])),
        ("parquet", pa.month_day_nano_interval()),
        ("csv", pa.list_(pa.int64())),
        ("csv", pa.large_binary()),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(fmt: FormatName, kind: pa.DataType) -> None:
    with pytest.raises(ConfigError, match=rf"sink\.format={fmt}: {fmt} cannot hold odd \(.*take sink="):
        Files(fmt, "x").check(pa.schema([("fine", pa.int64()), ("odd", kind)]))


def test_a_compression_that_arrow_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sink\.compression=gzip.*zstd, lz4, none"):
        Files("arrow", "x", compression="gzip").check(pa.schema([("n", pa.int64())]))


@pytest.mark.parametrize("compression", ["zstd", "snappy", "gzip", "lz4", "none"])
def test_every_compression_is_read_again(compression: formats.Compression) -> None:
    file, table = io.BytesIO(), pa.table({"n": range(9)})
    formats.Parquet(compression).write(file, table.schema, iter([table]))
    assert pq.read_table(file).equals(table)


def test_json_lines_are_plain_json() -> None:
    values = {**{name: array.slice(0, 1) for name, array in TYPES.items()}, "nan": pa.array([math.nan])}
    table = pa.table(values)
    (line,) = written("jsonl", table.schema, table).decode().splitlines()
    assert json.loads(line) == {
        "vector": [1.5, 2.5], "text": "", "decimal": "1.10", "stamp": "1970-01-01T00:00:00+00:00",
        "nanos": "1970-01-01T00:00:00", "date": "2026-01-02", "time": "01:02:03", "duration": 1.5,
        "struct": {"p": 1, "q": ["x"]}, "map": [["k", 1]], "binary": "AP8=", "flag": True, "half": 1.5,
        "unsigned": 2**64 - 1, "large": "a", "null": None, "nan": None,
    }  # fmt: skip


TEXTS = st.none() | st.sampled_from(["", "a", "NA", "null", " ", '"', ",", "\n", "a\nb", "\r\n", "é", "1", "true"])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"t": TEXTS, "n": st.none() | st.integers(0, 9)}), max_size=6),
    wide=st.booleans(),
)
def test_our_own_csv_comes_back_with_nulls_and_empty_strings_apart(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], wide: bool
) -> None:
    schema = pa.schema([("t", pa.string()), ("n", pa.int64())] if wide else [("t", pa.string())])
    table = pa.Table.from_pylist(rows, schema=schema)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(written("csv", schema, table))
    types = {"t": "string", "n": "int64"} if wide else {"t": "string"}
    source = Source(str(path), "csv", column_types=types)
    fragments, found = source.inspect(source.inputs())
    assert found is not None
    back = [row for each in fragments for part in source.reader(found).read(each) for row in part.to_pylist()]
    assert back == table.to_pylist()
    assert count_rows("csv", path.read_bytes()) == len(rows)


@pytest.mark.parametrize("fmt", ["parquet", "jsonl", "arrow"])
def test_parts_are_read_by_the_source_of_their_format(tmp_path: Path, fmt: FormatName) -> None:
    table = pa.table({"n": [1, None], "t": ["", None], "l": [[1], None]})
    sink = Files(fmt, str(tmp_path))
    sink.write(SHARD, table.schema, iter([table]))
    source = Source(str(tmp_path), fmt)
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    assert [
        row for each in fragments for part in source.reader(schema).read(each) for row in part.to_pylist()
    ] == table.to_pylist()


# ---------------------------------------------------------------- the sink as a whole


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_error_in_mid_part_leaves_nothing(tmp_path: Path, fmt: FormatName) -> None:
    table = pa.table({"n": range(300_000)})

    def breaking() -> Iterator[pa.Table]:
        yield table
        raise RuntimeError("the model fails")

    with pytest.raises(RuntimeError, match="the model fails"):
        Files(fmt, str(tmp_path / "out")).write(SHARD, table.schema, breaking())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_empty_shard_gives_an_empty_part(tmp_path: Path, fmt: FormatName) -> None:
    sink = Files(fmt, str(tmp_path))
    sink.write(SHARD, pa.schema([("n", pa.int64())]), iter([]))
    found = sink.examine(SHARD)
    assert found is not None
    assert found.rows == 0


def test_what_was_written_is_measured_and_named(tmp_path: Path) -> None:
    import hashlib

    table = pa.table({"n": [1, 2]})
    sink = Files("parquet", str(tmp_path), layout="like_source")
    found = sink.write(SHARD, table.schema, iter([table]))
    content = (tmp_path / "k=1" / "part-00000003-0123456789abcdef.parquet").read_bytes()
    assert found == (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}", 2)
    assert Files("parquet", "x").part(SHARD) == "part-00000003-0123456789abcdef.parquet"


def test_nothing_of_the_moment_is_in_a_part() -> None:
    table = pa.table({"n": [1, 2]}).replace_schema_metadata({"pandas": "3.1", "when": "now"})
    content = written("parquet", table.schema, table)
    assert (pq.read_schema(io.BytesIO(content)).metadata or {}) == {}
