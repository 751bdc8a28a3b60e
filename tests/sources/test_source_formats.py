"""Every file fmt: what comes back is what was stored, from whatever a file may hold; what is wrong is named."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from runner.errors import ConfigError
from runner.sources.files import Files
from runner.sources.formats import FormatName
from runner.types import Fragment

FORMATS: tuple[FormatName, ...] = ("parquet", "csv", "jsonl", "arrow", "orc")
Write = Callable[[pa.Table, Path], None]


def write_jsonl(table: pa.Table, path: Path) -> None:
    import json

    path.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS: Mapping[str, Write] = {
    "parquet": pq.write_table,
    "csv": pyarrow.csv.write_csv,
    "jsonl": write_jsonl,
    "arrow": lambda table, path: pyarrow.feather.write_feather(table, str(path)),
    "orc": lambda table, path: pyarrow.orc.write_table(table, str(path)),
}


def read(source: Files, columns: list[str] | None = None, needed: Mapping[str, str] | None = None) -> pa.Table:
    fragments, schema = source.inspect(source.inputs(), needed)
    if schema is None:
        assert all(fragment.rows == 0 for fragment in fragments)
        return pa.table({})
    reader = source.reader(schema)
    tables = [table for fragment in fragments for table in reader.read(fragment, columns)]
    assert all(table.schema.names == (columns or schema.names) for table in tables)
    return pa.concat_tables(tables) if tables else schema.empty_table().select(columns or schema.names)


def refusal(source: Files, needed: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        source.inspect(source.inputs(), needed)
    return str(refused.value)


PLAIN = pa.table({"n": [1, 2, 3], "t": ["a", "b", "c"], "x": [0.5, 1.5, 2.5]})


@pytest.mark.parametrize("fmt", FORMATS)
class TestEveryFormat:
    def test_what_was_stored_comes_back(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a b#%=[1]é.data")
        assert read(Files(str(tmp_path), fmt)).equals(PLAIN)

    def test_columns_come_in_the_order_asked_for(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a")
        source = Files(str(tmp_path), fmt)
        assert read(source, ["x", "n"]).equals(PLAIN.select(["x", "n"]))
        assert read(Files(str(tmp_path), fmt, columns=["x", "t"])).equals(PLAIN.select(["x", "t"]))

    def test_columns_in_another_order_are_the_same_columns(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a")
        WRITERS[fmt](PLAIN.select(["x", "t", "n"]), tmp_path / "b")
        assert read(Files(str(tmp_path), fmt)).equals(pa.concat_tables([PLAIN, PLAIN]))

    def test_a_partition_is_a_column_that_can_be_read_alone(self, tmp_path: Path, fmt: FormatName) -> None:
        for key in ("1", "2"):
            (tmp_path / f"k={key}").mkdir()
            WRITERS[fmt](PLAIN, tmp_path / f"k={key}" / "a")
        source = Files(str(tmp_path), fmt)
        assert read(source, ["k"]).column("k").to_pylist() == [1, 1, 1, 2, 2, 2]
        assert read(source).schema.names == ["n", "t", "x", "k"]
        assert read(Files(str(tmp_path), fmt, partitioning=None)).schema.names == ["n", "t", "x"]

    def test_rows_are_filtered_and_numbered_within_the_file(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a")
        source = Files(str(tmp_path), fmt, filters=[["n", "!=", 2]])
        fragments, schema = source.inspect(source.inputs())
        assert schema is not None
        reader = source.reader(schema)
        assert read(source, ["t"]).column("t").to_pylist() == ["a", "c"]
        assert [number for each in fragments for number in reader.positions(each)] == [0, 2]

    def test_empty_files_are_fine(self, tmp_path: Path, fmt: FormatName) -> None:
        if fmt in {"csv", "jsonl"}:
            (tmp_path / "a").touch()
        else:
            WRITERS[fmt](PLAIN.slice(0, 0), tmp_path / "a")
        assert read(Files(str(tmp_path), fmt)).num_rows == 0
        WRITERS[fmt](PLAIN, tmp_path / "b")
        WRITERS[fmt](PLAIN.slice(0, 0), tmp_path / "c")
        source = Files(str(tmp_path), fmt)
        assert read(source).equals(PLAIN)
        assert [fragment.input.name.rpartition("/")[2] for fragment in source.inspect(source.inputs())[0]] == [
            "a",
            "b",
            "c",
        ]

    def test_a_missing_column_is_told_with_the_nearest_and_the_key(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN.rename_columns(["amount", "t", "x"]), tmp_path / "a")
        told = refusal(Files(str(tmp_path), fmt), {"amuont": "predict.columns", "t": "predict.columns"})
        assert told.startswith("predict.columns: there is no column 'amuont' in ")
        assert "did you mean 'amount'?" in told
        assert "source.columns" in refusal(Files(str(tmp_path), fmt, columns=["q"]))

    def test_a_column_that_is_not_offered_is_told(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a")
        source = Files(str(tmp_path), fmt, columns=["t"], filters=[["n", ">", 1]])
        assert refusal(source, {"x": "predict.columns"}).splitlines() == [
            "source.filters: 'n' is not among source.columns=['t']",
            "predict.columns: 'x' is not among source.columns=['t']",
        ]

    def test_files_that_differ_are_named_with_the_difference(self, tmp_path: Path, fmt: FormatName) -> None:
        WRITERS[fmt](PLAIN, tmp_path / "a")
        WRITERS[fmt](pa.table({"n": ["p", "q"], "t": ["a", "b"], "x": [1.5, 2.5]}), tmp_path / "b")
        told = refusal(Files(str(tmp_path), fmt))
        assert f"'n' is int64 in {tmp_path}/a, string in {tmp_path}/b" in told
        assert read(Files(str(tmp_path), fmt), ["t"], {"t": "predict.columns"}).num_rows == 5

    def test_nulls_take_the_type_of_the_other_files(self, tmp_path: Path, fmt: FormatName) -> None:
        if fmt == "orc":
            pytest.skip("ORC has no type for null")
        WRITERS[fmt](pa.table({"n": pa.nulls(2), "t": ["d", "e"], "x": [0.5, 0.5]}), tmp_path / "a")
        WRITERS[fmt](PLAIN, tmp_path / "b")
        assert read(Files(str(tmp_path), fmt)).column("n").to_pylist() == [None, None, 1, 2, 3]

    def test_garbage_is_named(self, tmp_path: Path, fmt: FormatName) -> None:
        if fmt == "csv":
            (tmp_path / "bad").write_bytes(b"a,b\n1,2,3\n")
        else:
            (tmp_path / "bad").write_bytes(b"\x00garbage" * 9)
        assert f"{tmp_path}/bad cannot be read as {fmt}: " in refusal(Files(str(tmp_path), fmt))

    def test_many_problems_are_counted(self, tmp_path: Path, fmt: FormatName) -> None:
        for i in range(9):
            (tmp_path / f"{i}").write_bytes(b'"a\x00b",c\n1\n')
        assert refusal(Files(str(tmp_path), fmt)).splitlines()[-1] == "source.path: 4 more problems like these"


@pytest.mark.parametrize("fmt", ["parquet", "arrow", "orc"])
def test_a_truncated_file_is_named(tmp_path: Path, fmt: FormatName) -> None:
    WRITERS[fmt](PLAIN, tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[: len(content) - 20])
    assert f"{tmp_path}/a cannot be read as {fmt}" in refusal(Files(str(tmp_path), fmt))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,n\n1,2\n")
    assert "several columns named 'n'" in refusal(Files(str(tmp_path), "csv"))


# ---------------------------------------------------------------- types

RICH = pa.table(
    {
        "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "view": pa.array(["a", None, "b"], pa.string_view()),
        "decimal": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.25")], pa.decimal128(9, 2)),
        "stamp": pa.array([0, None, 1], pa.timestamp("us", "Europe/Berlin")),
        "date": pa.array([datetime.date(2026, 1, 2), None, None]),
        "struct": pa.array([{"p": 1, "q": ["x"]}, None, {"p": None, "q": []}]),
        "list": pa.array([[1.5], None, []], pa.list_(pa.float32())),
        "vector": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2)),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        "binary": pa.array([b"\x00\xff", None, b""]),
        "flag": pa.array([True, None, False]),
        "half": pa.array([1.5, None, 2.5], pa.float16()),
        "null": pa.nulls(3),
        "a.b": pa.array([1, 2, 3]),
        "a": pa.array([{"b": 4}, {"b": 5}, {"b": 6}]),
        "ünï cödé": pa.array(["ß", "", "\U0001f600"]),
    }
)


@pytest.mark.parametrize("fmt", ["parquet", "arrow"])
def test_every_type_comes_back_as_it_was(tmp_path: Path, fmt: FormatName) -> None:
    WRITERS[fmt](RICH, tmp_path / "a")
    found = read(Files(str(tmp_path), fmt))
    assert found.schema.equals(RICH.schema)
    assert found.to_pylist() == RICH.to_pylist()
    for name in RICH.column_names:
        assert read(Files(str(tmp_path), fmt), [name]).to_pylist() == RICH.select([name]).to_pylist()


@pytest.mark.parametrize(
    "kinds",
    [
        (pa.string(), pa.large_string()),
        (pa.string_view(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string())),
        (pa.dictionary(pa.int32(), pa.string()), pa.large_string()),
    ],
)
def test_strings_are_strings_however_they_are_encoded(tmp_path: Path, kinds: tuple[pa.DataType, ...]) -> None:
    for i, kind in enumerate(kinds):
        column = (
            pa.array(["a", None]).dictionary_encode().cast(kind) if "dict" in str(kind) else pa.array(["a", None], kind)
        )
        pq.write_table(pa.table({"t": column}), tmp_path / f"{i}.parquet")
    assert read(Files(str(tmp_path), "parquet")).column("t").to_pylist() == ["a", None, "a", None]


def test_a_column_without_nulls_is_the_same_column_as_one_with(tmp_path: Path) -> None:
    for i, nullable in enumerate((False, True)):
        schema = pa.schema([pa.field("n", pa.int64(), nullable, {"PARQUET:field_id": str(i)})], {"k": str(i)})
        pq.write_table(pa.table({"n": [1]}, schema=schema), tmp_path / f"{i}.parquet")
    assert read(Files(str(tmp_path), "parquet")).num_rows == 2


def test_keys_of_partitions_are_typed_by_all_of_their_values(tmp_path: Path) -> None:
    for key in ("1", "07", "x%2Fy", "__HIVE_DEFAULT_PARTITION__", "-3", "123456789012345678901234567890"):
        (tmp_path / f"k={key}").mkdir()
        pq.write_table(PLAIN.slice(0, 1), tmp_path / f"k={key}" / "a")
    found = read(Files(str(tmp_path), "parquet"), ["k"]).column("k").to_pylist()
    assert sorted(found, key=str) == ["-3", "07", "1", "123456789012345678901234567890", None, "x/y"]
    numbers = read(Files(f"{tmp_path}/k=[-01]*", "parquet"), ["k"]).column("k")
    assert numbers.type == pa.string()  # one of them fits no 64 bits
    assert read(Files(f"{tmp_path}/k=[-0]*", "parquet"), ["k"]).column("k").to_pylist() == [-3, 7]


# ---------------------------------------------------------------- Parquet


def test_row_groups_are_fragments_that_can_be_read_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(25)}), tmp_path / "a.parquet", row_group_size=10)
    source = Files(str(tmp_path), "parquet", filters=[["n", "!=", 11]])
    fragments, schema = source.inspect(source.inputs())
    assert [(each.rows, each.first_row, each.span) for each in fragments] == [
        (10, 0, (0, 1)), (10, 10, (1, 2)), (5, 20, (2, 3))]  # fmt: skip
    assert schema is not None
    reader = source.reader(schema)
    assert [n for table in reader.read(fragments[1]) for n in table.column("n").to_pylist()] == [10, *range(12, 20)]
    assert list(reader.positions(fragments[1])) == [10, *range(12, 20)]
    assert sum(each.bytes for each in fragments) <= fragments[0].input.size


def test_tables_are_neither_tiny_nor_large(tmp_path: Path) -> None:
    rows = 200_000
    wide = {f"x{i}": pa.array(range(rows), pa.int64()) for i in range(9)}
    pq.write_table(pa.table({"n": pa.nulls(rows, pa.int8()), "t": ["text"] * rows, **wide}), tmp_path / "a.parquet")
    source = Files(str(tmp_path), "parquet")
    (fragment,), schema = source.inspect(source.inputs())
    assert schema is not None
    reader = source.reader(schema)
    counts = {len(columns): len(list(reader.read(fragment, columns))) for columns in (["n"], ["t", "n"], list(wide))}
    assert counts[1] == 1
    assert min(counts[2], counts[9]) > 2


READ_ALL = """
import pickle, sys
reader, fragment = pickle.loads(bytes.fromhex(sys.argv[1]))
print(sum(table.num_rows for table in reader.read(fragment)), "pandas" in sys.modules)
"""


def test_pandas_is_not_needed_to_read_everything(tmp_path: Path) -> None:
    pq.write_table(PLAIN, tmp_path / "a.parquet")
    source = Files(str(tmp_path), "parquet")
    (fragment,), schema = source.inspect(source.inputs())
    assert schema is not None
    pickled = pickle.dumps((source.reader(schema), fragment)).hex()
    done = subprocess.run([sys.executable, "-c", READ_ALL, pickled], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]


def test_many_tiny_row_groups_are_read_as_one_fragment(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(300)}), tmp_path / "a.parquet", row_group_size=1)
    source = Files(str(tmp_path), "parquet")
    fragments, schema = source.inspect(source.inputs())
    assert len(fragments) == 300
    assert schema is not None
    whole = Fragment(fragments[0].input, 1, 300, 0, (0, 300), joinable=True)
    assert [n for table in source.reader(schema).read(whole) for n in table.column("n").to_pylist()] == list(range(300))


MEMORY = """
import sys, threading, psutil
from runner.sources.files import Files
from runner.sources import opening, parquet
source = Files(sys.argv[1], "parquet")
fragments, schema = source.inspect(source.inputs())
reader, process = source.reader(schema), psutil.Process()
for table in reader.read(fragments[0]):
    break
before, peak, rows = process.memory_info().rss, 0, 0
for table in reader.read(fragments[0]):
    rows += table.num_rows
    peak = max(peak, process.memory_info().rss - before)
print(rows, peak)
"""


def test_memory_does_not_follow_the_size_of_a_row_group(tmp_path: Path) -> None:
    pytest.importorskip("psutil")
    import numpy as np

    rows = 10_000_000
    table = pa.table({"x": np.random.default_rng(0).random(rows)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows, compression="none", use_dictionary=False)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True)
    read_rows, peak = map(int, done.stdout.split())
    assert read_rows == rows
    assert peak < table.nbytes / 4


# ---------------------------------------------------------------- ORC, Arrow


def test_orc_is_read_stripe_by_stripe(tmp_path: Path) -> None:
    table = pa.table({"n": range(100_000), "a.b": range(100_000)})
    pyarrow.orc.write_table(table, str(tmp_path / "a.orc"), stripe_size=1024, batch_size=10_000)
    assert pyarrow.orc.ORCFile(str(tmp_path / "a.orc")).nstripes > 1
    source = Files(str(tmp_path), "orc")
    assert read(source).equals(table)
    assert source.inspect(source.inputs())[0][0].rows == 100_000


@pytest.mark.parametrize("write", [write_stream, WRITERS["arrow"]])
def test_arrow_is_a_file_or_a_stream_of_any_number_of_batches(tmp_path: Path, write: Write) -> None:
    batches = pa.concat_tables([PLAIN, PLAIN.slice(1), PLAIN.slice(0, 0), PLAIN])
    write(batches, tmp_path / "a")
    assert read(Files(str(tmp_path), "arrow")).equals(batches)
    assert read(Files(str(tmp_path), "arrow"), ["t"]).equals(batches.select(["t"]))


# ---------------------------------------------------------------- CSV


def csv(tmp_path: Path, text: str | bytes, name: str = "a.csv", **options: Any) -> list[dict[str, Any]]:
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / name).write_bytes(content)
    return list(read(Files(f"{tmp_path}/{name}", "csv", **options)).to_pylist())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("\ufeffn,t\n1,a\n", [{"n": 1, "t": "a"}]),
        ('n,t\n1,"a\nb"\n2,"c,""d"""', [{"n": 1, "t": "a\nb"}, {"n": 2, "t": 'c,"d"'}]),
        ("n,t\r\n1,a\r\n\r\n2,b", [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]),
        ("n,t\n1,a\n\n2,b\n\n\n", [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}]),
        ('n,t\n1,\n,""\n,NA\n,"NA"\n', [{"n": 1, "t": None}, {"n": None, "t": ""}, {"n": None, "t": None}, {"n": None, "t": "NA"}]),
        ('"n","t"\n"1","a"\n"",""\n', [{"n": 1, "t": "a"}, {"n": None, "t": None}]),
        ("n\n1\n\n3\n", [{"n": 1}, {"n": None}, {"n": 3}]),
        ("n,t\n", []),
        ("n,t", []),
        ("\n", []),
    ],
)  # fmt: skip
def test_csv_of_many_writers(tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> None:
    assert csv(tmp_path, text) == rows


def test_csv_with_another_delimiter(tmp_path: Path) -> None:
    assert csv(tmp_path, "n;t\n1;a,b\n", delimiter=";") == [{"n": 1, "t": "a,b"}]


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    latin = "n,plan,note\n1,cafe,\n2,café,\n".encode("latin-1")
    with pytest.raises(ConfigError) as refused:
        csv(tmp_path, latin)
    assert refused.value.problems == [
        f"source.path: {tmp_path}/a.csv: column 'plan' is not UTF-8: convert the file, "
        "or give source.column_types={plan: binary}"
    ]
    assert csv(tmp_path, latin, column_types={"plan": "binary"})[1]["plan"] == b"caf\xe9"
    assert read(Files(str(tmp_path), "csv"), ["n"], {"n": "predict.columns"})["n"].to_pylist() == [1, 2]


def test_declared_types_of_csv_win(tmp_path: Path) -> None:
    assert csv(tmp_path, "zip,n\n01234,1\n", column_types={"zip": "string"}) == [{"zip": "01234", "n": 1}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fmt", "head", "row", "odd"), [("csv", "n,t\n", "1,a\n", "x,a\n"), ("jsonl", "", '{"n": 1}\n', '{"n": "x"}\n')]
)
def test_a_value_that_the_first_block_did_not_announce_is_told_with_the_remedy(
    tmp_path: Path, fmt: FormatName, head: str, row: str, odd: str
) -> None:
    (tmp_path / "a").write_text(head + row * (6 * 1024**2 // len(row)) + odd)
    with pytest.raises(ConfigError, match=r"source\.column_types=\{name: type\}"):
        read(Files(str(tmp_path), fmt))
    if fmt == "csv":
        assert read(Files(str(tmp_path), fmt, column_types={"n": "string"}), ["n"])[-1:].to_pylist() == [{"n": "x"}]


def test_whole_numbers_and_fractions_share_a_column_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("n\n1\n")
    (tmp_path / "b").write_text("n\n1.5\n")
    assert read(Files(str(tmp_path), "csv")).column("n").to_pylist() == [1.0, 1.5]


# ---------------------------------------------------------------- JSON lines, compression


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"a":1}\n\n  \n{"b":"x"}', [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ('\ufeff{"a":1}\n', [{"a": 1}]),
        ('{"a":{"b":[1]}}\r\n{"a":null}\r\n', [{"a": {"b": [1]}}, {"a": None}]),
        ("\n \n", []),
    ],
)
def test_json_lines_of_many_writers(tmp_path: Path, text: str, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    assert read(Files(str(tmp_path), "jsonl")).to_pylist() == rows


def test_a_key_that_a_whole_file_lacks_is_null_there(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n":1}\n')
    (tmp_path / "b.jsonl").write_text('{"t":"x"}\n{"n":2.5,"t":null}\n')
    needed = {"t": "predict.columns", "n": "predict.columns"}
    found = read(Files(str(tmp_path), "jsonl"), None, needed).to_pylist()
    assert found == [{"t": None, "n": 1.0}, {"t": "x", "n": None}, {"t": None, "n": 2.5}]
    assert "there is no column 'q'" in refusal(Files(str(tmp_path), "jsonl"), {"q": "predict.columns"})


def test_long_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t":"' + "x" * 3_000_000 + '"}\n{"t":"y"}\n')
    assert [len(text) for text in read(Files(str(tmp_path), "jsonl")).column("t").to_pylist()] == [3_000_000, 1]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("gz", lambda data: gzip.compress(data[:6]) + gzip.compress(data[6:])),
    ],
)
def test_text_files_are_decompressed_by_their_extension(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    (tmp_path / f"a.csv.{suffix}").write_bytes(compress(b"n,t\n1,a\n"))
    assert read(Files(str(tmp_path), "csv")).to_pylist() == [{"n": 1, "t": "a"}]
    (tmp_path / f"a.csv.{suffix}").write_bytes(compress(b'{"n":1}\n{"n":2}\n'))
    assert read(Files(str(tmp_path), "jsonl")).to_pylist() == [{"n": 1}, {"n": 2}]


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"n,t\n" + b"1,a\n" * 1000)[:-12])
    source = Files(str(tmp_path), "csv")
    assert f"{tmp_path}/a.csv.gz cannot be read as csv: " in refusal(source)
