"""Lines of text: every line is a row, whatever ends it; a line that is no text is told, or put aside."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from conftest import Runs
from hypothesis import given
from hypothesis import strategies as st
from sources.test_source_seam import typed
from test_job import job, predicted
from test_quarantine import quarantined

from runner import ConfigError, JobFailed, run
from runner.__main__ import main
from runner.sources.files import Files
from runner.sources.text_lines import whole_lines
from runner.testing import check_source


def lines_of(source: Files) -> list[str]:
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    reader = source.reader(schema)
    return [text for each in fragments for table in reader.read(each, ["text"]) for text in table["text"].to_pylist()]


def text_job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return job(tmp_path, "reversing", source="text", **{"predict.columns": ["text"], **more})


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb", ["a", "", "b"]),
        (b"a\r\n\r\nb\r\n", ["a", "", "b"]),
        (b"a\rb\x0bc\xe2\x80\xa8d\n", ["a\rb\x0bc\u2028d"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
        (b'"a,\nb"\n<!doctype html>\n', ['"a,', 'b"', "<!doctype html>"]),
        (b"<html>\n", ["<html>"]),
    ],
    ids=["empty", "one", "empty line", "crlf", "other breaks", "bom", "quotes", "web page"],
)
def test_a_line_ends_at_a_line_feed(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    assert lines_of(Files(str(tmp_path / "a.txt"), "text")) == lines


@given(st.lists(st.text("a\r\n", max_size=5).map(str.encode), max_size=6))
def test_pieces_are_cut_anywhere(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    expected = whole.replace(b"\r\n", b"\n")
    found = b"".join(whole_lines(iter(pieces)))
    assert found == expected + b"\n" * (whole[-1:] not in (b"", b"\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    lines = [f"Grüße {i}" for i in range(200_000)]
    (tmp_path / "a.txt").write_bytes("\n".join(lines).encode(encoding))
    assert lines_of(Files(str(tmp_path), "text", encoding=encoding)) == lines


def test_it_keeps_the_promises_of_a_source(tmp_path: Path) -> None:
    for day in ("1", "2"):
        (tmp_path / f"day={day}").mkdir()
        (tmp_path / f"day={day}" / "a.txt").write_text("one\n\nthree\n")
    (tmp_path / "day=2" / "b.txt.gz").write_bytes(gzip.compress(b"packed\nlines"))
    source = Files(str(tmp_path), "text", filters=[["text", "!=", "one"]])
    check_source(source)
    assert lines_of(source) == ["", "three", "", "three", "packed", "lines"]


def test_lines_are_predicted_in_every_mode(executor: Runs, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / f"in/{name}.txt").write_text("".join(f"{name}{i}\n" for i in range(100)))
    executor(text_job(tmp_path, **{"sink.keep_columns": ["path"], "shard_bytes": 100}))
    assert predicted(tmp_path, "reversed") == [f"{name}{i}"[::-1] for name in "ab" for i in range(100)]
    assert {Path(each).name for each in predicted(tmp_path, "path")} == {"a.txt", "b.txt"}


BAD = b"good 0\nbad \xe9\xff\r\ngood 2\nG\xfcte\ngood 4"


def test_what_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(BAD)
    with pytest.raises(
        ConfigError, match=r"a.txt cannot be read as text: line 2: is not utf-8 .*source.encoding names"
    ):
        run(text_job(tmp_path, mode="inline"))
    (tmp_path / "in/a.txt").write_bytes(b"x" * 70_000 + b"\n" + BAD)
    with pytest.raises(JobFailed, match=r"a.txt cannot be read: line 3: is not utf-8"):
        run(text_job(tmp_path, mode="inline"))


def test_lines_that_are_not_utf8_are_put_aside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_bytes(BAD)
    more = {"errors": "quarantine", "errors.max_bad_rows": 10, "batch_size": 2}
    report = run(text_job(tmp_path, mode="inline", **more))
    assert (report.rows_out, report.rows_quarantined) == (3, 2)
    assert predicted(tmp_path, "reversed") == [f"good {i}"[::-1] for i in (0, 2, 4)]
    rows = quarantined(tmp_path).to_pylist()
    assert [(row["_row"], row["_raw"]) for row in rows] == [(1, r"bad \xe9\xff"), (3, r"G\xfcte")]
    assert main([*typed(text_job(tmp_path, **more)), "action=verify", "verify.deep=true"]) == 0


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"\xff\xfea\x00", "begins like UTF-16 text: source.encoding=utf-16 reads it"),
        (b"PAR1\x15\x04\x15", "begins like Parquet: source=parquet reads it"),
        (gzip.compress(b"a"), "begins like gzip: name it .gz"),
    ],
    ids=["utf-16", "parquet", "gzip"],
)
def test_what_is_no_text_is_told(tmp_path: Path, head: bytes, told: str) -> None:
    (tmp_path / "a.txt").write_bytes(head)
    source = Files(str(tmp_path), "text")
    with pytest.raises(ConfigError, match=told):
        source.inspect(source.inputs())


def test_options_that_make_no_sense_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source.encoding=latin9000: Python knows no such encoding"):
        run(text_job(tmp_path, **{"source.encoding": "latin9000"}))


@pytest.mark.parametrize(
    ("option", "formats"),
    [({"delimiter": ";"}, "source=csv"), ({"size": [8, 8]}, "source=images"), ({"encoding": "latin1"}, "source=text")],
)
def test_an_option_of_another_format_is_told(option: dict[str, Any], formats: str) -> None:
    [name] = option
    with pytest.raises(ConfigError, match=f"source.{name}: has no effect with source=parquet; .* choose {formats}"):
        Files("in", "parquet", **option)
