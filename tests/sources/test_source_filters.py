"""Filters: what statistics and partitions skip is never what the exact filter keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import ConfigError
from runner.sources.files import Files
from runner.sources.filters import conjunctions, filter_columns
from runner.sources.reader import FilesReader

OPERATORS = ["=", "==", "!=", "<", ">", "<=", ">=", "in", "not in"]


def read(source: Files, columns: list[str] | None = None) -> pa.Table:
    fragments, schema = source.inspect(source.inputs())
    assert schema is not None
    reader: FilesReader = source.reader(schema)
    tables = [table for fragment in fragments for table in reader.read(fragment, columns)]
    names = columns or schema.names
    return pa.concat_tables(tables) if tables else schema.empty_table().select(names)


# ---------------------------------------------------------------- against plain Python

Row = dict[str, Any]


def holds(value: Any, operator: str, expected: Any) -> bool:
    if operator in {"in", "not in"}:
        there = any(value == each or (_nan(value) and _nan(each)) for each in expected)
        return there == (operator == "in")
    if value is None:
        return False
    return bool(
        {
            "=": value == expected, "==": value == expected, "!=": value != expected, "<": value < expected,
            ">": value > expected, "<=": value <= expected, ">=": value >= expected,
        }[operator]
    )  # fmt: skip


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def passes(row: Row, any_of: list[list[Any]]) -> bool:
    return any(all(holds(row[name], operator, value) for name, operator, value in terms) for terms in any_of)


NUMBERS = st.integers(-3, 3)
FLOATS = st.sampled_from([-1.5, 0.0, 1.0, 2.5, math.nan, math.inf])
TEXTS = st.sampled_from(["", "a", "b", "é", "a b"])
KEYS = st.sampled_from([1, 2, 10])
VALUES = {"n": NUMBERS, "f": FLOATS, "t": TEXTS, "k": KEYS, "w": TEXTS.filter(bool)}


@st.composite
def terms(draw: st.DrawFn) -> list[Any]:
    name, operator = draw(st.sampled_from(sorted(VALUES))), draw(st.sampled_from(OPERATORS))
    several = operator in {"in", "not in"}
    value = draw(st.lists(VALUES[name], max_size=2, unique_by=repr) if several else VALUES[name])
    return [name, operator, value]


FILTERS = st.lists(st.lists(terms(), min_size=1, max_size=3), min_size=1, max_size=2)
STORED = st.fixed_dictionaries({"n": st.none() | NUMBERS, "f": st.none() | FLOATS, "t": st.none() | TEXTS})
PARTS = st.dictionaries(
    st.tuples(st.none() | KEYS, st.none() | TEXTS.filter(bool)), st.lists(STORED, max_size=7), min_size=1, max_size=4
)
TYPES = pa.schema([("n", pa.int32()), ("f", pa.float64()), ("t", pa.string())])


def fold(value: object) -> str:
    return "__HIVE_DEFAULT_PARTITION__" if value is None else str(value).replace(" ", "%20")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS, any_of=FILTERS)
def test_filters_keep_exactly_the_rows_that_pass(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[tuple[int | None, str | None], list[Row]], any_of: list[Any]
) -> None:
    root, expected = tmp_path_factory.mktemp("parts"), []
    parts = {(7, "z"): [{"n": 0, "f": 0.0, "t": "a"}], **parts}  # fixes the types of the keys
    for (key, word), rows in parts.items():
        folder = root / f"k={fold(key)}" / f"w={fold(word)}"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=TYPES), folder / "a.parquet", row_group_size=2)
        expected += [row for row in ({**row, "k": key, "w": word} for row in rows) if passes(row, any_of)]
    found = read(Files(str(root), "parquet", filters=any_of, allow_empty=True)) if _some(root, any_of) else None
    rows = [] if found is None else found.to_pylist()
    assert sorted(map(repr, rows)) == sorted(repr({name: row[name] for name in "nftkw"}) for row in expected)


def _some(root: Path, any_of: list[Any]) -> bool:
    return bool(Files(str(root), "parquet", filters=any_of, allow_empty=True).inputs())


# ---------------------------------------------------------------- what is skipped


@pytest.fixture
def sorted_file(tmp_path: Path) -> Path:
    pq.write_table(
        pa.table({"n": range(100), "t": [f"{i:03}" for i in range(100)]}), tmp_path / "a.parquet", row_group_size=10
    )
    return tmp_path / "a.parquet"


def groups_read(path: Path, monkeypatch: pytest.MonkeyPatch, filters: list[Any], columns: list[str]) -> list[int]:
    read_groups: list[int] = []
    whole = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, row_groups: list[int], **more: Any) -> Any:
        read_groups.extend(row_groups)
        return whole(self, *args, row_groups=row_groups, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    read(Files(str(path), "parquet", filters=filters), columns)
    return read_groups


@pytest.mark.parametrize(
    ("filters", "groups"),
    [
        ([["n", ">=", 85]], [8, 9]),
        ([["n", "<", 4.5]], [0]),
        ([["t", "=", "042"]], [4]),
        ([["n", "in", [1, 55]]], [0, 5]),
        ([["n", "in", [1.5]]], []),
        ([[["n", "=", 3]], [["t", "=", "099"]]], [0, 9]),
        ([["n", ">", 1000]], []),
    ],
)
def test_row_groups_are_skipped_by_their_statistics(
    sorted_file: Path, monkeypatch: pytest.MonkeyPatch, filters: list[Any], groups: list[int]
) -> None:
    assert groups_read(sorted_file, monkeypatch, filters, ["t"]) == groups


def test_statistics_skip_beside_a_filter_on_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "k=1").mkdir()
    pq.write_table(pa.table({"n": range(40)}), tmp_path / "k=1" / "a.parquet", row_group_size=10)
    assert groups_read(tmp_path, monkeypatch, [["n", "<", 5], ["k", "=", 1]], ["n"]) == [0]


def test_nan_is_unequal_to_everything_whatever_statistics_say(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [5.0, math.nan, 5.0]}), tmp_path / "a.parquet")
    for filters in ([["x", "!=", 5.0]], [["x", "not in", [5.0]]]):
        assert read(Files(str(tmp_path), "parquet", filters=filters)).num_rows == 1


def test_a_partition_that_no_filter_lets_pass_is_not_listed(tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / f"dt={day}").mkdir()
        pq.write_table(pa.table({"n": [1]}), tmp_path / f"dt={day}" / "a.parquet")
    assert len(Files(str(tmp_path), "parquet", filters=[["dt", ">", "2026-01-01"]]).inputs()) == 1
    with pytest.raises(ConfigError, match=r"source\.filters=.*exclude all 2 files"):
        Files(str(tmp_path), "parquet", filters=[["dt", "=", "1999-01-01"]]).inputs()


# ---------------------------------------------------------------- types and refusals


@pytest.mark.parametrize(
    ("values", "filters", "kept"),
    [
        (pa.array([1, 2, 3]), [["x", ">", 1.5]], 2),
        (pa.array([1, 2, None]), [["x", "not in", [1]]], 2),
        (pa.array([0, 86400], pa.timestamp("s")), [["x", ">=", "1970-01-02"]], 1),
        (pa.array([0, 86400], pa.timestamp("us", "UTC")), [["x", "<", "1970-01-01T12:00:00Z"]], 2),
        (pa.array([0, 1], pa.date32()), [["x", "=", "1970-01-02"]], 1),
        (pa.array(["a", "b", None]).dictionary_encode(), [["x", "in", ["a"]]], 1),
        (pa.array(["a", "b", None]).dictionary_encode(), [["x", "!=", "a"]], 1),
        (pa.array(["a", "b"], pa.large_string()), [["x", "=", "b"]], 1),
        (pa.array([True, False, None]), [["x", "=", True]], 1),
        (pa.array([1, 2], pa.decimal128(10, 2)), [["x", "<", 1.5]], 1),
    ],
)  # fmt: skip
def test_values_are_compared_in_the_columns_type(
    tmp_path: Path, values: pa.Array, filters: list[Any], kept: int
) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "a.parquet")
    assert read(Files(str(tmp_path), "parquet", filters=filters)).num_rows == kept


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ([["y", "=", 1]], "no column 'y'.*x"),
        ([["x", "~", 1]], "~"),
        ([["x", "=", "many"]], "many"),
        ([["x", "in", "many"]], "list of values"),
        ([["x", "="]], r"expected \[\[column, operator, value\]"),
        (["x", "=", 1], r"expected \[\[column, operator, value\]"),
    ],
)
def test_a_filter_that_does_not_fit_the_data_is_told_before_anything_is_read(
    tmp_path: Path, filters: list[Any], told: str
) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    source = Files(str(tmp_path), "parquet", filters=filters)
    with pytest.raises(ConfigError, match=rf"source\.filters.*{told}"):
        source.inspect(source.inputs())


def test_both_forms_of_filters_are_understood() -> None:
    assert conjunctions([("a", "=", 1), ("b", ">", 2)]) == [[("a", "=", 1), ("b", ">", 2)]]
    assert conjunctions([[["a", "=", 1]], [["b", ">", 2]]]) == [[["a", "=", 1]], [["b", ">", 2]]]
    assert conjunctions(None) == conjunctions([]) == []
    assert filter_columns([[["a", "=", 1]], [["b", ">", 2], ["a", "<", 3]]]) == ["a", "b"]
