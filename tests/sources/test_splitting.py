"""Pieces of a file give the same rows as the whole file: the same values, order, numbers and unreadable rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import feather, orc

from runner import ConfigError
from runner.sources import text
from runner.sources.casting import cast_without_loss
from runner.sources.files import Files
from runner.testing import check_source
from runner.types import Fragment, Unreadable

TEXT = st.text('a1,"\n\r; ', max_size=60).map(str.encode)
ROW = st.tuples(st.integers(0, 99), st.text('ab", \n\r', max_size=6)).map(
    lambda row: '{},"{}"'.format(row[0], row[1].replace('"', '""'))
)
BAD_ROW = st.sampled_from(["oops,a", "1,2,3", "7", 'x,"two\nlines"', '5,a"b', '6,"a"b'])
SOUND = st.lists(ROW | BAD_ROW, min_size=1, max_size=40).flatmap(
    lambda rows: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(rows).encode())
)
JSON_ROW = st.integers(0, 99).map(lambda x: f'{{"x": {x}, "id": "\\n"}}') | st.sampled_from(
    ["", " ", '{"x":', "7", '{"x": "a"}', '{"x": 1} {"x": 2}']
)
FIXTURE = [HealthCheck.function_scoped_fixture]


def items(source: Files, fragments: list[Fragment], schema: pa.Schema) -> list[Any]:
    """Each row with its number, and each row that cannot be parsed, as reading gives them."""
    reader = source.reader(schema)
    return [item for fragment in fragments for item in _items(reader, fragment)]


def _items(reader: Any, fragment: Fragment) -> Iterator[Any]:
    numbers = iter(list(reader.positions(fragment)))
    for table in reader.read(fragment):
        if isinstance(table, Unreadable):
            yield table
        else:
            yield from ((next(numbers), row) for row in table.to_pylist())


def outcome(source: Files, fragments: list[Fragment], schema: pa.Schema) -> Any:
    """The same; where the file cannot be read, `None`."""
    try:
        return items(source, fragments, schema)
    except (ConfigError, ValueError):
        return None


def hold_pieces(source: Files, most_bytes: int | None, most_rows: int | None = None) -> list[Fragment]:
    """Hold the pieces against the whole, and return them."""
    try:
        whole, schema = source.inspect(source.inputs())
    except ConfigError:  # none of its rows can be parsed
        return []
    if schema is None:
        return []
    pieces = [piece for fragment in whole for piece in source.divide(fragment, most_bytes, most_rows)]
    expected = outcome(source, whole, schema)
    text._REMEMBERED.clear()
    assert outcome(source, pieces, schema) == expected
    text._REMEMBERED.clear()
    assert outcome(source, pieces[::-1], schema) == _backwards(source, pieces, schema, expected)
    return pieces


def _backwards(source: Files, pieces: list[Fragment], schema: pa.Schema, expected: Any) -> Any:
    """What the pieces give from the last to the first: their rows have the same numbers in whatever order they are read."""
    if expected is None:
        return None
    return [item for piece in pieces[::-1] for item in items(source, [piece], schema)]


def tolerant(kind: str, path: Path, **more: Any) -> Files:
    return Files(str(path), kind, **more).tolerant()  # type: ignore[arg-type]


@pytest.mark.slow
@settings(deadline=None, max_examples=150, suppress_health_check=FIXTURE)
@given(TEXT | SOUND, st.integers(1, 60), st.sampled_from([b"h,i\n", b"\xef\xbb\xbfh,i\r\n", b'\n"h\nh",i\n', b"h\n"]))
@example(b'1,"a\n2,b\n3,c"\n4,d\n', 5, b"h,i\n")
@example(b'1,"a,"\n2,b\n3,"c,"\n4,d\n', 5, b"h,i\n")
def test_ranges_of_csv_are_the_whole(tmp_path: Path, body: bytes, most: int, header: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(header + body)
    source = tolerant("csv", path)
    hold_pieces(source, most)


@pytest.mark.slow
@settings(deadline=None, max_examples=80, suppress_health_check=FIXTURE)
@given(st.lists(JSON_ROW, max_size=30), st.sampled_from(["\n", "\r\n"]), st.integers(1, 60))
def test_ranges_of_json_lines_are_the_whole(tmp_path: Path, rows: list[str], end: str, most: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(end.join(['{"x": 1, "id": "a"}', *rows]).encode())
    hold_pieces(tolerant("jsonl", path, column_types={"x": "int64"}), most)


def written(path: Path, kind: str, rows: int = 1_000) -> None:
    """A file in row groups, stripes or record batches of 100 rows, or of lines."""
    table = pa.table({"x": range(rows), "text": [f"text {i}" for i in range(rows)]})
    write: dict[str, Callable[[], object]] = {
        "parquet": lambda: pq.write_table(table, path, row_group_size=300),
        "arrow": lambda: feather.write_feather(table, path, "uncompressed", chunksize=100),
        "orc": lambda: orc.write_table(table, path, stripe_size=1, batch_size=100),
        "csv": lambda: path.write_text("x,text\n" + "".join(f'{i},"text\n {i}"\n' for i in range(rows))),
        "jsonl": lambda: path.write_text("".join(f'{{"x": {i}, "text": "{i}"}}\n' for i in range(rows))),
    }
    write[kind]()


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc", "csv", "jsonl"])
def test_every_format_is_divided(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    written(path, kind)
    pieces = hold_pieces(Files(str(path), kind), 3_000, 130)  # type: ignore[arg-type]
    assert len(pieces) >= (2 if kind == "orc" else 5)
    assert sum(piece.bytes for piece in pieces) == pytest.approx(path.stat().st_size, abs=len(pieces))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "orc", "csv", "jsonl"])
def test_pieces_keep_the_promises_of_a_source(kind: str, tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / f"{name}.{kind}", kind)
    check_source(Files(str(tmp_path), kind))  # type: ignore[arg-type]
    check_source(Files(str(tmp_path), kind, filters=[["x", ">", 777]]))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=100, suppress_health_check=FIXTURE)
@given(st.binary(max_size=40) | st.text("a\n\r\u00e9", max_size=40).map(str.encode), st.integers(1, 20))
def test_ranges_of_text_are_the_whole(tmp_path: Path, content: bytes, most: int) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"begin\n" + content)
    hold_pieces(tolerant("text", path), most)


def test_an_encoding_that_may_hold_a_line_feed_within_a_character_keeps_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\u0a0a\n" * 50, "utf-16")
    assert len(hold_pieces(Files(str(path), "text", encoding="utf-16"), 10)) == 1


def test_a_compressed_file_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    with pa.CompressedOutputStream(str(path), "gzip") as file:
        file.write(b"x\n" + b"1\n" * 1000)
    [whole] = hold_pieces(Files(str(path), "csv"), 10, 10)
    assert whole.about_rows == 1000


def test_a_file_with_a_header_too_long_to_be_repeated_stays_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    names = [f"feature_{i:06}" for i in range(5_000)]
    path.write_text("\n".join([",".join(names), *[",".join(["1"] * 5_000)] * 20]) + "\n")
    assert len(hold_pieces(Files(str(path), "csv"), 20_000)) == 1


@pytest.mark.parametrize(
    ("values", "kind", "fits"),
    [
        (pa.array([0, 1]), pa.bool_(), True),
        (pa.array([2, -1]), pa.bool_(), False),
        (pa.array([0.5]), pa.bool_(), False),
        (pa.array([[0.5], None, [0.25]]), pa.list_(pa.float32()), True),
        (pa.array([[0.1]]), pa.list_(pa.float32()), False),
    ],
)
def test_no_value_changes_in_a_cast(values: pa.Array, kind: pa.DataType, fits: bool) -> None:
    with contextlib.nullcontext() if fits else pytest.raises(pa.ArrowInvalid):
        assert len(cast_without_loss(pa.chunked_array([values]), kind)) == len(values)


LONG = '1,"' + "\n1,2" * 100_000 + '"\n'  # a cell that looks like rows, longer than what is fetched of a remote file


@pytest.mark.parametrize("inside", [True, False])
def test_a_cell_without_quotes_for_long_is_found_out(inside: bool, tmp_path: Path) -> None:
    """On a local disk it is cut in the right place; in an object store the reader finds out, and says what to do."""
    content = "x,y\n" + (LONG * 4 if inside else "1,2\n" * 150_000)
    path = tmp_path / "x.csv"
    path.write_text(content)
    assert len(hold_pieces(Files(str(path), "csv"), 200_000)) > 3
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/split/x.csv", content.encode())
    source = Files("memory:///split/x.csv", "csv")
    whole, schema = source.inspect(source.inputs())
    assert schema is not None
    pieces = source.divide(whole[0], 200_000, None)
    assert len(pieces) > 3
    if inside:
        with pytest.raises(
            ConfigError, match=r"(bytes \d+ to \d+|line \d+): .*a quote is opened that nothing closes.*shard_bytes=null"
        ):
            _ = [table for piece in pieces for table in source.reader(schema).read(piece)]
    else:
        assert items(source, pieces, schema) == items(source, whole, schema)
