"""Tables and queries of real databases as a source: the promises, the ranges, the types, and what is refused before anything runs."""

from __future__ import annotations

import datetime
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from databases import Fresh

from runner import ConfigError
from runner.databases import statements
from runner.sources.sql import Sql
from runner.storage.transience import is_transient
from runner.testing import check_source
from runner.types import Fragment, Unreadable

ROWS = 100


def fill(database: Fresh, table: str = "rides", rows: int = ROWS, first: int = 0) -> None:
    """Rows whose keys have gaps; `part` has duplicates and nulls."""
    name = database.database.dialect.quoted(table)
    columns = "id INTEGER PRIMARY KEY, x DOUBLE PRECISION, name TEXT, part INTEGER"
    values = ", ".join(
        f"({3 * i}, {i}.0, 'row {i}', {'NULL' if i % 10 == 9 else i % 4})" for i in range(first, first + rows)
    )
    database.run(f"CREATE TABLE IF NOT EXISTS {name} ({columns})", f"INSERT INTO {name} VALUES {values}")


def inspected(source: Sql) -> tuple[list[Fragment], pa.Schema]:
    with source.reading():
        fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    return fragments, schema


def read(source: Sql) -> list[dict[str, Any]]:
    with source.reading():
        fragments, schema = source.inspect(source.inputs())
        assert schema is not None
        reader = source.reader(schema)
        return [row for each in fragments for table in reader.read(each) for row in table.to_pylist()]  # type: ignore[union-attr]


# ---------------------------------------------------------------- the promises themselves


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"key": "name"},
        {"key": "part"},
        {"filters": [["x", ">", 30.5], ["part", "not in", [1, 2]]]},
        {"columns": ["name", "id"], "key": "x"},
    ],
    ids=["primary key", "text", "duplicates and nulls", "filters", "columns"],
)
def test_tables_keep_the_promises(database: Fresh, more: dict[str, Any]) -> None:
    fill(database)
    check_source(Sql(database.uri, table="rides", fragment_rows=15, **more))


def test_queries_keep_the_promises(database: Fresh) -> None:
    fill(database)
    query = "select id, name as n, x * :factor as \"X y\" from rides -- all\nwhere x > :least and name <> ':least'; "
    check_source(Sql(database.uri, query=query, params={"factor": 2.0, "least": 7}, key="id", fragment_rows=15))
    check_source(Sql(database.uri, query="select * from rides where id > $1 and part = $2", params=[7, 1]))
    check_source(Sql(database.uri, query="select * from rides where id > ? and part = ?", params=[7, 1], key="part"))


# ---------------------------------------------------------------- ranges


def test_ranges_are_even_by_rows_however_the_keys_lie(database: Fresh) -> None:
    database.load("t", {"k": [i**3 for i in range(100)], "x": range(100)})
    fragments, _ = inspected(Sql(database.uri, table="t", key="k", fragment_rows=30))
    assert [each.rows for each in fragments] == [30, 30, 30, 10]
    assert [each.first_row for each in fragments] == [0, 30, 60, 90]


def test_equal_keys_are_never_parted_and_null_keys_are_the_last(database: Fresh) -> None:
    keys = [1] * 5 + [2] * 50 + [3, 4, 5, 6] + [None] * 7
    database.load("t", pa.table({"k": pa.array(keys, pa.int64()), "x": range(len(keys))}))
    source = Sql(database.uri, table="t", key="k", fragment_rows=10)
    fragments, _ = inspected(source)
    assert [each.rows for each in fragments] == [55, 4, 7]
    assert "k is null in all of these rows" in source.how_to_split(fragments[-1])
    assert sorted(each["x"] for each in read(source)) == list(range(len(keys)))


def test_a_table_without_a_key_is_one_fragment_and_that_is_said(database: Fresh) -> None:
    database.run("CREATE TABLE t (a INTEGER, b INTEGER, PRIMARY KEY (a, b))", "INSERT INTO t VALUES (1, 2), (1, 3)")
    source = Sql(database.uri, table="t", fragment_rows=1)
    fragments, _ = inspected(source)
    assert [(each.rows, each.span) for each in fragments] == [(2, None)]
    assert source.how_to_split(fragments[0]) == (
        "the table has no primary key of one column; name a column to divide it by: source.key"
    )


@pytest.mark.parametrize("kind", ["timestamp", "date", "uuid", "numeric(10, 2)", "timestamptz"])
def test_keys_of_other_types_travel_as_text(database: Fresh, kind: str) -> None:
    if database.kind == "sqlite":
        pytest.skip("SQLite has none of these types")
    values = {
        "uuid": [f"00000000-0000-0000-0000-0000000000{i:02d}" for i in range(40)],
        "numeric(10, 2)": [str(i * 1.25) for i in range(40)],
    }.get(kind, [f"2026-01-{1 + i // 2:02d}" + ("" if kind == "date" else f" 10:00:00.{i:06d}") for i in range(40)])
    rows = ", ".join(f"('{value}', {i})" for i, value in enumerate(values))
    database.run(f"CREATE TABLE t (k {kind}, x INTEGER)", f"INSERT INTO t VALUES {rows}")
    source = Sql(database.uri, table="t", key="k", fragment_rows=9)
    assert len(inspected(source)[0]) > 3
    assert [each["x"] for each in read(source)] == list(range(40))


def test_rows_that_come_behind_the_last_key_disturb_nobody_and_others_are_refused(database: Fresh) -> None:
    fill(database)
    source = Sql(database.uri, table="rides", fragment_rows=40)
    fragments, schema = inspected(source)
    fill(database, rows=10, first=ROWS)
    last = [table.num_rows for table in source.reader(schema).read(fragments[-1])]
    assert sum(last) == 20
    database.run("DELETE FROM rides WHERE id = 9")
    with pytest.raises(
        ConfigError, match="range of id from 0 to before 120 has 39 rows now, and had 40 when it was planned"
    ):
        list(source.reader(schema).read(fragments[0]))
    database.run("INSERT INTO rides VALUES (121, 0, 'new', 0)")
    with pytest.raises(ConfigError, match="range of id from 120 to before 240 has 41 rows now"):
        list(source.reader(schema).read(fragments[1]))


# ---------------------------------------------------------------- snapshots and streams


def test_all_workers_read_one_snapshot(postgresql: Fresh) -> None:
    fill(postgresql)
    source = Sql(postgresql.uri, table="rides", fragment_rows=40)
    with source.reading():
        fragments, schema = source.inspect(source.inputs())
        assert schema is not None
        postgresql.run("DELETE FROM rides", "INSERT INTO rides VALUES (1, 1, 'new', 1)")
        reader = source.reader(schema)
        assert [sum(table.num_rows for table in reader.read(each)) for each in fragments] == [40, 40, 20]
    with pytest.raises(ConnectionError, match="the snapshot that all workers read has ended") as raised:
        list(reader.read(fragments[0]))
    assert is_transient(raised.value)


def test_a_reader_may_be_closed_early_in_another_thread(database: Fresh) -> None:
    database.load("t", {"x": range(50_000)})
    source = Sql(database.uri, table="t", key="x")
    fragments, schema = inspected(source)
    stream: Any = source.reader(schema).read(fragments[0])
    assert next(stream).num_rows
    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join()
    database.run("DROP TABLE t")  # nobody holds it


# ---------------------------------------------------------------- names and filters


def test_names_may_have_any_characters(database: Fresh) -> None:
    name = 'Ours "of" 2026; --'
    quoted = database.database.dialect.quoted
    database.run(
        f"CREATE TABLE {quoted(name)} ({quoted('Key ID')} INTEGER PRIMARY KEY, {quoted('a{b}:c $1 ?')} INTEGER)",
        f"INSERT INTO {quoted(name)} VALUES (1, 10), (2, 20), (3, 30)",
    )
    source = Sql(database.uri, table=name, fragment_rows=2, filters=[["a{b}:c $1 ?", ">=", 20]])
    assert read(source) == [{"Key ID": 2, "a{b}:c $1 ?": 20}, {"Key ID": 3, "a{b}:c $1 ?": 30}]


def test_a_schema_other_than_the_default_one(postgresql: Fresh) -> None:
    postgresql.run(
        "CREATE SCHEMA shop", "CREATE TABLE shop.t (id INTEGER PRIMARY KEY)", "INSERT INTO shop.t VALUES (1), (2)"
    )
    fragments, _ = inspected(Sql(postgresql.uri, schema="shop", table="t", fragment_rows=1))
    assert [each.rows for each in fragments] == [1, 1]
    with pytest.raises(
        ConfigError, match=r"source\.table=T: there is no such table in the schema 'shop'.*did you mean 't'"
    ):
        inspected(Sql(postgresql.uri, schema="shop", table="T"))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([["x", ">", 1], ["x", "<=", 3]], [2, 3]),
        ([[["x", "=", 1]], [["name", "==", "it's"]]], [1, 4]),
        ([["x", "in", [1, 5, 99]]], [1, 5]),
        ([["x", "not in", [1, 2]]], [3, 4, 5, None]),
        ([["x", "!=", 1]], [2, 3, 4, 5]),
        ([["x", "<", 2.5]], [1, 2]),
        ([["x", "in", []]], []),
    ],
    ids=["and", "or", "in", "not in", "not", "fraction", "in nothing"],
)
def test_filters_let_pass_what_they_let_pass_in_files(database: Fresh, filters: list[Any], expected: list[int]) -> None:
    table = pa.table({"x": pa.array([1, 2, 3, 4, 5, None]), "name": ["a", "b", "c", "it's", "e", "f"]})
    database.load("t", table)
    found = [each["x"] for each in read(Sql(database.uri, table="t", key="name", filters=filters, allow_empty=True))]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_filters_compare_in_the_type_of_the_column(database: Fresh) -> None:
    database.run("CREATE TABLE t (day DATE, x INTEGER)", "INSERT INTO t VALUES ('2026-01-01', 1), ('2026-01-02', 2)")
    assert [each["x"] for each in read(Sql(database.uri, table="t", filters=[["day", ">=", "2026-01-02"]]))] == [2]
    query = "select * from t where day = :day"
    assert [each["x"] for each in read(Sql(database.uri, query=query, params={"day": "2026-01-01"}))] == [1]


# ---------------------------------------------------------------- types


def test_types_of_postgresql_arrive_as_typed_columns(postgresql: Fresh) -> None:
    postgresql.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE TABLE t (n numeric(12, 3), tz timestamptz, d date, a int[], s text[], j jsonb, u uuid, b bytea, m mood, f float4, ok bool)",
        "INSERT INTO t VALUES (1.5, '2026-01-02 03:04:05.678901+02', '2026-01-02', '{1,NULL}', '{x}', '{\"k\": 1}', "
        "'00000000-0000-0000-0000-000000000001', '\\x00ff', 'glad', 0.5, true), "
        "(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
    )
    source = Sql(postgresql.uri, table="t", key="d")
    _, schema = inspected(source)
    assert schema.field("n").type == pa.decimal128(12, 3)
    assert schema.field("tz").type == pa.timestamp("us", "UTC")
    first, second = read(source)
    assert first == {
        "n": Decimal("1.500"),
        "tz": datetime.datetime(2026, 1, 2, 1, 4, 5, 678901, datetime.UTC),
        "d": datetime.date(2026, 1, 2),
        "a": [1, None],
        "s": ["x"],
        "j": '{"k": 1}',
        "u": "00000000-0000-0000-0000-000000000001",
        "b": b"\x00\xff",
        "m": "glad",
        "f": 0.5,
        "ok": True,
    }
    assert set(second.values()) == {None}
    assert (
        len(read(Sql(postgresql.uri, table="t", filters=[["m", "=", "glad"], ["n", ">", 1], ["ok", "=", True]]))) == 1
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [("numeric", "1.5"), ("interval", "1 hour"), ("numeric[]", "{1.5}"), ("money", "1.5"), ("inet", "10.0.0.1"), ("int4range", "[1,2)")],
)  # fmt: skip
def test_a_type_that_cannot_be_read_is_refused_with_the_cast_that_works(
    postgresql: Fresh, kind: str, value: str
) -> None:
    postgresql.run(f'CREATE TABLE t (id int PRIMARY KEY, "A b" {kind})', f"INSERT INTO t VALUES (1, '{value}')")
    with pytest.raises(ConfigError, match=r"the column 'A b' is .*, which has no type here; cast it") as raised:
        inspected(Sql(postgresql.uri, table="t"))
    cast = str(raised.value).split("select ..., ")[1].split(" ...")[0]
    (row,) = read(Sql(postgresql.uri, query=f"select id, {cast} from t"))
    assert row["A b"] is not None
    with (source := Sql(postgresql.uri, table="t")).reading():
        fragments, schema = source.inspect(source.inputs(), {"id": "predict.columns"})
        assert schema is not None
        assert source.reader(schema).whole_rows(fragments[0], [0]).column("A b").to_pylist()[0] is not None


def test_types_of_duckdb_arrive_as_typed_columns(tmp_path: Path) -> None:
    database = Fresh("duckdb", f"duckdb:///{tmp_path / 'd.db'}")
    database.run(
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE TABLE t AS SELECT 1.5::DECIMAL(12, 3) AS n, TIMESTAMPTZ '2026-01-02 03:04:05+02' AS tz, [1, NULL] AS a, "
        "'glad'::mood AS m, {'k': 1} AS s, 5::HUGEINT AS h, '\\x00'::BLOB AS b, true AS ok",
    )
    source = Sql(database.uri, table="t", key="tz")
    _, schema = inspected(source)
    assert (schema.field("tz").type, schema.field("m").type) == (pa.timestamp("us", "UTC"), pa.string())
    (row,) = read(source)
    assert (row["m"], row["a"], row["s"], row["tz"].hour) == ("glad", [1, None], {"k": 1}, 1)
    database.run("ALTER TABLE t ADD COLUMN i INTERVAL")
    with pytest.raises(ConfigError, match=r"the column 'i' is INTERVAL, .*epoch\(\"i\"\)"):
        inspected(Sql(database.uri, table="t"))


@pytest.fixture
def loose(tmp_path: Path) -> Fresh:
    """A table of SQLite whose columns hold what they were not made for."""
    database = Fresh("sqlite", f"sqlite:///{tmp_path / 'loose.db'}")
    database.run("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER, day DATE, anything)")
    rows = ", ".join(f"({i}, {'NULL' if i < 2000 else i}, '2026-01-01', {i}.5)" for i in range(3_000))
    database.run(f"INSERT INTO t VALUES {rows}")
    return database


def test_columns_of_sqlite_have_the_types_that_are_declared_or_that_all_values_have(loose: Fresh) -> None:
    _, schema = inspected(Sql(loose.uri, table="t"))
    assert [str(each) for each in schema.types] == ["int64", "int64", "string", "double"]
    rows = read(Sql(loose.uri, table="t", fragment_rows=2_500))
    assert (rows[0]["x"], rows[2_999]["x"], rows[5]["anything"]) == (None, 2_999, 5.5)


def test_a_value_of_sqlite_that_does_not_fit_is_an_error_or_a_bad_row(loose: Fresh) -> None:
    source = Sql(loose.uri, table="t", fragment_rows=1_000)
    fragments, schema = inspected(source)
    loose.run("UPDATE t SET x = 'many' WHERE id IN (1500, 1501, 1999)")
    with pytest.raises(ValueError, match=r"row 1500: column 'x' \(int64\) holds 'many'; mend it, or cast the column"):
        list(source.reader(schema).read(fragments[1]))
    reader = source.tolerant().reader(schema)
    found = list(reader.read(fragments[1]))
    aside = [each for each in found if isinstance(each, Unreadable)]
    assert (aside[0].number, aside[0].text) == (1500, "1500, 'many', '2026-01-01', 1500.5")
    assert [each.num_rows for each in found if each.num_rows != 1] == [500, 497]
    assert list(reader.positions(fragments[1])) == [i for i in range(1_000, 2_000) if i not in {1500, 1501, 1999}]
    assert reader.whole_rows(fragments[1], [1502])["id"].to_pylist() == [1502]
    loose.run("UPDATE t SET anything = 'many' WHERE id = 1")
    with pytest.raises(ConfigError, match="the column 'anything' holds values of several types; cast it"):
        inspected(Sql(loose.uri, table="t"))


# ---------------------------------------------------------------- what is refused before anything runs


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "expected one of source.table and source.query"),
        ({"table": "t", "query": "select 1"}, "expected one of source.table and source.query"),
        ({"table": "t", "params": {"a": 1}}, r"source\.params: are the values of a source\.query"),
        ({"query": "select 1; drop table t"}, r"source\.query: holds more than one statement"),
        ({"query": "delete from t"}, r"begins with delete; expected one query that reads"),
        ({"query": "select 1) as a, (select 2"}, "closes a parenthesis"),
        ({"query": "select :a"}, r"holds :a, and source\.params has no value for it"),
        ({"query": "select 1", "params": {"a": 1}}, r"no place for source\.params\.a"),
        ({"query": "select ?", "params": [1, 2]}, "has 1 placeholders, and source.params has 2 values"),
        ({"query": "select :a", "params": {"a": {"b": 1}}}, r"source\.params\.a: is a dict"),
        ({"table": "t", "filters": ["x"]}, r"source\.filters=.*expected"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_without_connecting(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Sql("sqlite:///nowhere.db", **given)


def test_the_text_of_a_query_is_understood() -> None:
    query = """select ':a' || E'it\\'s :a' as ":a", x::text, $$ ; :a $$ /* :a ; */ from t where y = :a and z[1:2] = '{}' -- :a ;\n;"""
    assert statements.problem(query) is None
    assert statements.placeholders(query, {"a": 1}) == []
    assert (
        statements.bound("a = $2 and b = $1", ["x", "y"], lambda value, i: f"<{value}{i}>") == "a = <y0> and b = <x1>"
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"table": "rydes"}, r"source\.table=rydes: there is no such table in .*; did you mean 'rides'\?"),
        ({"table": "rides", "filters": [["nme", "=", "a"]]}, r"source\.filters: there is no column 'nme'.*did you mean 'name'"),
        ({"table": "rides", "filters": [["x", ">", "many"]]}, r"source\.filters"),
        ({"table": "rides", "key": "Id"}, r"source\.key: there is no column 'Id'.*did you mean 'id'"),
        ({"table": "rides", "columns": ["xx"]}, r"source\.columns: there is no column 'xx'"),
        ({"table": "rides", "filters": [["x", ">", 1e9]]}, r"has no row that passes source\.filters"),
        ({"table": "empty"}, r"source\.table=empty: has no row \(source\.allow_empty=true"),
        ({"query": "select * from nowhere"}, "nowhere"),
        ({"query": "with gone as (delete from rides returning *) select * from gone"}, "."),
    ],
    ids=["table", "filter", "value", "key", "column", "no row passes", "empty", "query", "writes"],
)  # fmt: skip
def test_what_does_not_fit_the_data_is_told_before_anything_runs(
    database: Fresh, given: dict[str, Any], problem: str
) -> None:
    fill(database)
    database.run("CREATE TABLE empty (a INTEGER)")
    with pytest.raises(ConfigError, match=problem):
        inspected(Sql(database.uri, **given))
    assert database.rows("select count(*) as n from rides") == [{"n": ROWS}]
    assert Sql(database.uri, table="empty", allow_empty=True).inputs() == []


def test_a_function_that_writes_is_refused(postgresql: Fresh) -> None:
    fill(postgresql)
    postgresql.run("CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS 'DELETE FROM rides RETURNING 1'")
    with pytest.raises(PermissionError, match="read-only transaction"):
        inspected(Sql(postgresql.uri, query="select wipe() as a"))
    assert postgresql.rows("select count(*) as n from rides") == [{"n": ROWS}]


def test_a_view_is_read_like_a_table(database: Fresh) -> None:
    fill(database)
    database.run("CREATE VIEW few AS SELECT id, x FROM rides WHERE id < 30")
    assert len(read(Sql(database.uri, table="few"))) == 10
    assert len(inspected(Sql(database.uri, table="few", key="id", fragment_rows=5))[0]) == 2
