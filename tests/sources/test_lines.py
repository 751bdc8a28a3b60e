"""Rows of text that cannot be parsed: found exactly, in their place, whatever the blocks; all others are read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv

from runner import ConfigError
from runner.sources import lines, text
from runner.sources.files import Files
from runner.types import Unreadable

TEXT = st.text('a1,"\n\r; ', max_size=40).map(str.encode)


def cut(content: bytes, piece: int = 7) -> list[bytes]:
    return [row.text for block in lines.blocks(io.BytesIO(content), lines.csv_row(","), piece) for row in block]


def seen_by_pyarrow(content: bytes) -> int:
    """Rows behind the header, those of another length included."""
    skipped: list[Any] = []

    def skip(row: Any) -> str:
        skipped.append(row)
        return "skip"

    options = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    table = csv.read_csv(io.BytesIO(content), csv.ReadOptions(use_threads=False), options)
    return int(table.num_rows) + len(skipped)


@settings(deadline=None, max_examples=400)
@given(TEXT, st.integers(1, 50))
def test_rows_are_cut_as_pyarrow_cuts_them(body: bytes, piece: int) -> None:
    content = b"h,i\n" + body
    try:
        found = [row for row in cut(content, piece) if row.strip(b"\r\n")]
    except ValueError:
        return  # a quote is opened that nothing closes
    assert b"".join(cut(content, piece)).removesuffix(b"\n") == content.removesuffix(b"\n")
    assert len(found) - 1 == seen_by_pyarrow(content)


def test_lines_are_counted_through_quoted_line_breaks_and_blank_lines() -> None:
    content = b'\xef\xbb\xbfh,i\r\n\r\n1,"a\r\nb"\n2,c\r3,d'
    rows = [row for block in lines.blocks(io.BytesIO(content), lines.csv_row(","), 5) for row in block]
    assert [(row.line, row.text) for row in rows] == [
        (1, b"h,i\r\n"), (2, b"\r\n"), (3, b'1,"a\r\nb"\n'), (5, b"2,c\r"), (6, b"3,d\n")
    ]  # fmt: skip


CSV_ROWS = {
    True: st.tuples(st.integers(0, 99), st.text('ab", \n', max_size=4)).map(
        lambda row: '{},"{}"'.format(row[0], row[1].replace('"', '""'))
    ),
    False: st.sampled_from(["oops,a", "1,2,3", "7", "1.5,b", 'x,"two\nlines"', "99999999999999999999,c"]),
}
JSON_ROWS = {
    True: st.integers(0, 99).map(lambda x: f'{{"x": {x}, "id": "a"}}'),
    False: st.sampled_from(['{"x":', "7", "[1]", '{"x": "a"}', '{"x": 1} 7', '{"x": 1, "x": 2}', "oops", "}"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_other_row_is_read_and_each_is_in_its_place(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", data.draw(st.sampled_from([64, 200, 4096])))
    monkeypatch.setattr(lines, "PIECE_BYTES", data.draw(st.sampled_from([16, 100, 4096])))
    which = [True, *data.draw(st.lists(st.booleans(), max_size=30))]
    rows = [data.draw((CSV_ROWS if kind == "csv" else JSON_ROWS)[good]) for good in which]
    path = tmp_path / f"a.{kind}"
    path.write_bytes("\n".join([*(["x,id"] if kind == "csv" else []), *rows, ""]).encode())
    source = Files(str(path), kind, column_types={"x": "int64", "id": "string"}).tolerant()  # type: ignore[arg-type]
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    reader = source.reader(schema)
    items = list(reader.read(fragments[0]))
    bad = [item for item in items if isinstance(item, Unreadable)]
    assert [row.number for row in bad] == [i for i, good in enumerate(which) if not good]
    assert [row.text for row in bad] == [rows[row.number] for row in bad]
    assert list(reader.positions(fragments[0])) == [i for i, good in enumerate(which) if good]
    values = [x for item in items if not isinstance(item, Unreadable) for x in item.column("x").to_pylist()]
    assert values == [
        int("".join(filter(str.isdigit, rows[i].partition(",")[0]))) for i, good in enumerate(which) if good
    ]


def _read(source: Files) -> None:
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    list(source.reader(schema).read(fragments[0]))


def unread(tmp_path: Path, name: str, content: bytes, **more: Any) -> str:
    """What strict reading says of a file."""
    (tmp_path / name).write_bytes(content)
    source = Files(str(tmp_path / name), name.rpartition(".")[2], **more)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as refused:
        _read(source)
    return str(refused.value)


def test_strict_names_line_and_column(tmp_path: Path) -> None:
    types = {"x": "int64"}
    long = b"x,id\n" + b"".join(b'%d,"%s"\n' % (i, b"a\n" * 200) for i in range(20_000))
    assert "line 3: Expected 2 columns, got 3: 1,2,3" in unread(tmp_path, "a.csv", b"x,id\n1,a\n1,2,3\n")
    assert "line 3: column 'x': " in unread(tmp_path, "b.csv", b"x,id\n1,a\noops,b\n", column_types=types)
    assert "line 4020002: column 'x': " in unread(tmp_path, "c.csv", long + b"oops,b\n")
    assert "line 2: Column(/x) changed from number to string" in unread(
        tmp_path, "d.jsonl", b'{"x": 1}\n{"x": "a"}\n', column_types=types
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"x,id\n1;a\n2;b\n"), ("a.jsonl", b'[{"x": 1},\n{"x": 2}]\n'), ("b.jsonl", b'{"x":\n')],
    ids=["delimiter", "one document", "one line"],
)
def test_a_file_of_nothing_else_is_refused_as_a_whole(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    source = Files(str(tmp_path / name), name.rpartition(".")[2]).tolerant()  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"none of its first \d rows can be parsed: line [12]: "):
        source.inspect(source.inputs())


def test_a_quoted_empty_cell_stays_a_text_beside_a_row_that_cannot_be_parsed(tmp_path: Path) -> None:
    """How quoted empty cells are taken is decided by the first block; a bad row in it must not change that."""
    (tmp_path / "a.csv").write_bytes(b'x,id\n1,""\noops,b\n2,"c"\n')
    source = Files(str(tmp_path / "a.csv"), "csv", column_types={"x": "int64"}).tolerant()
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    tables = [each for each in source.reader(schema).read(fragments[0]) if isinstance(each, pa.Table)]
    assert pa.concat_tables(tables).column("id").to_pylist() == ["", "c"]


QUOTED = ['0,""'] * 4 + ['0,"aaa"', '0,"aaa"""', '10,""', "oops,a", '10,"aaaa"']
EXACT = ['0,"a"', '0,""""', '10,""', '10,"a"', '10,"a"""', '10,"aaaa"', 'x,"two\nlines"']


@pytest.mark.parametrize(
    ("rows", "bad"), [(QUOTED, 7), (EXACT, 6)], ids=["the next is cut within quotes", "the block ends with it"]
)
def test_a_bad_row_at_the_end_of_the_first_block_is_found(
    rows: list[str], bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a row that the block cuts may be left out of it."""
    (tmp_path / "a.csv").write_text("\n".join(["x,id", *rows, ""]))
    monkeypatch.setattr(text, "BLOCK_BYTES", 64)
    source = Files(str(tmp_path / "a.csv"), "csv", column_types={"x": "int64", "id": "string"}).tolerant()
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    items = list(source.reader(schema).read(fragments[0]))
    assert [item.number for item in items if isinstance(item, Unreadable)] == [bad]
