"""Batches for the model, and every form in which predictions come back."""

from __future__ import annotations

import datetime
import decimal
from collections import UserDict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ids import shown

from runner.arrow.batches import rebatch, to_input
from runner.arrow.predictions import to_table
from runner.arrow.schemas import BadPredictions, DoesNotFit, conform, fixed_schema, parse_schema, parse_type

# ---------------------------------------------------------------- rebatch


@settings(deadline=None)
@given(sizes=st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=6), rows=st.integers(1, 12))
def test_batches_have_their_size_and_together_all_rows_in_order(sizes: list[list[int]], rows: int) -> None:
    total = sum(map(sum, sizes))
    column = pa.array(range(total), pa.int64())
    tables, start = [], 0
    for chunks in sizes:
        ends = [start := start + size for size in chunks]
        arrays = [column.slice(end - size, size) for end, size in zip(ends, chunks, strict=True)]
        tables.append(pa.table({"n": pa.chunked_array(arrays, pa.int64())}))
    batches = list(rebatch(iter(tables), rows))
    assert [value for batch in batches for value in batch.column("n").to_pylist()] == list(range(total))
    assert [batch.num_rows for batch in batches] == [rows] * (total // rows) + [total % rows] * bool(total % rows)


def test_a_batch_is_yielded_before_more_is_read() -> None:
    def tables() -> Any:
        yield pa.table({"n": [1, 2, 3]})
        pytest.fail("read on")

    assert next(rebatch(tables(), 3)).num_rows == 3


# ---------------------------------------------------------------- to the model

TABLE = pa.table(
    {
        "n": pa.array([1, 2, 3], pa.int32()),
        "x": pa.array([1.5, None, 2.5]),
        "t": ["a", None, "b"],
        "v": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
        "s": pa.array([0, None, 1], pa.timestamp("us")),
        "f": [True, False, True],
        "d": pa.array(["a", "b", "a"]).dictionary_encode(),
    }
)


def test_arrow_is_given_as_it_is() -> None:
    assert to_input(TABLE, "arrow") is TABLE


def test_pandas_is_backed_by_numpy() -> None:
    frame = to_input(TABLE, "pandas")
    assert list(frame.columns) == TABLE.column_names
    assert [frame[name].dtype.kind for name in ("n", "x", "s", "f")] == list("ifMb")
    assert (frame["n"] % 2).tolist() == [1, 0, 1]


def test_numpy_is_a_dict_of_arrays_vectors_in_two_dimensions() -> None:
    arrays = to_input(TABLE, "numpy")
    assert arrays["n"].tolist() == [1, 2, 3]
    assert np.isnan(arrays["x"][1])
    assert arrays["v"].shape == (3, 2)
    assert arrays["t"].tolist() == ["a", None, "b"]
    assert arrays["s"].dtype == np.dtype("datetime64[us]")


@pytest.mark.parametrize("name", ["n", "v"])
def test_numpy_shares_arrows_memory(name: str) -> None:
    array = to_input(TABLE, "numpy")[name]
    column = TABLE.column(name).chunk(0)
    address = (column.values if name == "v" else column).buffers()[1].address
    assert array.__array_interface__["data"][0] == address


@pytest.mark.parametrize("kind", ["numpy", "pandas"])
def test_slices_and_chunks_give_what_they_hold(kind: Any) -> None:
    pieces = pa.concat_tables([TABLE.slice(1, 1), TABLE.slice(0, 2)]).select(["n", "v"])
    given = to_input(pieces, kind)
    assert [list(row) for row in given["v"]] == [[3, 4], [1, 2], [3, 4]]
    assert list(given["n"]) == [2, 1, 2]
    assert len(to_input(TABLE.slice(0, 0), kind)["n"]) == 0
    assert to_input(TABLE.schema.empty_table(), "numpy")["v"].shape == (0, 2)


def test_torch_is_a_dict_of_tensors_that_may_be_written_to() -> None:
    torch = pytest.importorskip("torch")
    tensors = to_input(TABLE.select(["n", "v", "f"]), "torch")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"n": (3,), "v": (3, 2), "f": (3,)}
    assert tensors["v"].dtype == torch.float32
    tensors["n"] += 1
    assert TABLE.column("n").to_pylist() == [1, 2, 3]


def test_torch_takes_numbers_only() -> None:
    pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"'t'.*predict\.columns"):
        to_input(TABLE, "torch")


# ---------------------------------------------------------------- from the model


class Mixed:
    """Turns into an array when asked, as tensors of other libraries do."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray[Any, Any]:
        return np.array([1.5, 2.5])


STRUCTURED = np.array([(1, 2.5), (3, 4.5)], dtype=[("p", "i4"), ("q", "f8")])
FORMS: dict[str, tuple[Any, dict[str, str]]] = {
    "array": (np.array([1.5, 2.5]), {"prediction": "double"}),
    "float32": (np.array([1.5, 2.5], "f4"), {"prediction": "float"}),
    "float16": (np.array([1.5, 2.5], "f2"), {"prediction": "halffloat"}),
    "big endian": (np.array([1.5, 2.5], ">f8"), {"prediction": "double"}),
    "strided": (np.arange(4)[::2], {"prediction": "int64"}),
    "backwards": (np.arange(2)[::-1], {"prediction": "int64"}),
    "bools": (np.array([True, False]), {"prediction": "bool"}),
    "texts": (np.array(["a", "bc"]), {"prediction": "string"}),
    "objects": (np.array(["a", None], object), {"prediction": "string"}),
    "days": (np.array(["2026-01-01", "2026-01-02"], "M8[D]"), {"prediction": "date32[day]"}),
    "masked": (np.ma.masked_array([1.5, 2.5], [False, True]), {"prediction": "double"}),
    "structured": (STRUCTURED, {"p": "int32", "q": "double"}),
    "two dimensions": (np.ones((2, 3), "f4"), {"prediction": "fixed_size_list<item: float>[3]"}),
    "fortran": (np.asfortranarray(np.ones((2, 3))), {"prediction": "fixed_size_list<item: double>[3]"}),
    "three dimensions": (np.ones((2, 3, 2))[:, ::2], {"prediction": "fixed_size_list<item: double>[4]"}),
    "array of arrays": (np.array([np.ones(1), np.ones(2)], object), {"prediction": "list<item: double>"}),
    "list": ([1, 2], {"prediction": "int64"}),
    "list with null": ([1.5, None], {"prediction": "double"}),
    "range": (range(2), {"prediction": "int64"}),
    "tuple": (("a", "b"), {"prediction": "string"}),
    "list of numpy": ([np.float32(1), np.float32(2)], {"prediction": "float"}),
    "list of times": ([np.datetime64("2026-01-01T00:00:00.000000001"), None], {"prediction": "timestamp[ns]"}),
    "list of mixed numbers": ([np.int64(1), 2.5], {"prediction": "double"}),
    "list of arrays": ([np.ones(2), np.ones(2)], {"prediction": "fixed_size_list<item: double>[2]"}),
    "list of ragged arrays": ([np.ones(2), np.ones(3)], {"prediction": "list<item: double>"}),
    "list of lists": ([[1.5], []], {"prediction": "list<item: double>"}),
    "list of dicts": ([{"a": 1}, {"b": "x"}], {"prediction": "struct<a: int64, b: string>"}),
    "list of decimals": ([decimal.Decimal("1.5"), None], {"prediction": "decimal128(2, 1)"}),
    "list of dates": ([datetime.date(2026, 1, 1), None], {"prediction": "date32[day]"}),
    "list of bytes": ([b"a", b"b"], {"prediction": "binary"}),
    "list of nulls": ([None, None], {"prediction": "null"}),
    "series": (pd.Series([1.5, 2.5]), {"prediction": "double"}),
    "named series": (pd.Series([1, 2], name="score", index=[7, 8]), {"score": "int64"}),
    "nullable series": (pd.Series([1, None], dtype="Int64"), {"prediction": "int64"}),
    "index": (pd.Index([1, 2]), {"prediction": "int64"}),
    "extension array": (pd.array([1, None], dtype="Int64"), {"prediction": "int64"}),
    "categorical": (pd.Categorical(["a", "b"]), {"prediction": "dictionary<values=string, indices=int8, ordered=0>"}),
    "frame": (pd.DataFrame({"a": [1, 2], 3: [1.5, None]}, index=[5, 6]), {"a": "int64", "3": "double"}),
    "frame of times": (pd.DataFrame({"a": pd.to_datetime(["2026-01-01", None])}), {"a": "timestamp[us]"}),
    "dict": ({"a": [1, 2], "b": np.ones((2, 1))}, {"a": "int64", "b": "fixed_size_list<item: double>[1]"}),
    "dict of series": ({"c": pd.Series(["x", "y"])}, {"c": "string"}),
    "other mapping": (UserDict({"a": [1, 2]}), {"a": "int64"}),
    "table": (pa.table({"a": [1, 2]}), {"a": "int64"}),
    "record batch": (pa.record_batch({"a": [1, 2]}), {"a": "int64"}),
    "arrow array": (pa.array([1, 2]), {"prediction": "int64"}),
    "chunked array": (pa.chunked_array([[1], [2]]), {"prediction": "int64"}),
    "what turns into an array": (Mixed(), {"prediction": "double"}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_predictions_is_typed(form: str) -> None:
    predictions, expected = FORMS[form]
    table = to_table(predictions, 2)
    spelled = {column.name: str(column.type).replace("large_string", "string") for column in table.schema}
    if form in {"frame of times", "categorical"}:  # pandas 2 has nanoseconds, and other categories
        spelled = {name: kind.replace("[ns]", "[us]") for name, kind in spelled.items()}
    assert spelled == expected
    assert table.schema.metadata is None
    assert table.num_rows == 2


def test_values_are_those_of_the_predictor() -> None:
    assert to_table(np.arange(4)[::-2], 2).to_pydict() == {"prediction": [3, 1]}
    assert to_table(np.ma.masked_array([1, 2], [False, True]), 2).to_pydict() == {"prediction": [1, None]}
    assert to_table(np.asfortranarray([[1, 2], [3, 4]]), 2).to_pydict() == {"prediction": [[1, 2], [3, 4]]}
    assert to_table(np.array([1, 2], ">i2"), 2).to_pydict() == {"prediction": [1, 2]}


def test_a_frame_of_strings_is_strings() -> None:
    table = to_table(pd.DataFrame({"t": pd.Series(["a", None], dtype="str")}), 2)
    assert fixed_schema(table.schema).field("t").type == pa.string()
    assert conform(table, fixed_schema(table.schema)).column("t").to_pylist() == ["a", None]


def test_tensors_of_every_kind_are_typed() -> None:
    torch = pytest.importorskip("torch")
    assert str(to_table(torch.ones(2, requires_grad=True), 2).schema.types[0]) == "float"
    assert str(to_table(torch.ones(2, 3), 2).schema.types[0]) == "fixed_size_list<item: float>[3]"
    bfloat = torch.tensor([1.5, 3.0e38], dtype=torch.bfloat16)
    assert to_table(bfloat, 2).column(0).to_pylist() == bfloat.float().tolist()
    assert str(to_table([torch.ones(2), torch.ones(2)], 2).schema.types[0]) == "fixed_size_list<item: float>[2]"
    assert to_table([torch.tensor(1), torch.tensor(2)], 2).to_pydict() == {"prediction": [1, 2]}
    assert to_table({"a": torch.tensor([True, False]).t()}, 2).to_pydict() == {"a": [True, False]}


@pytest.mark.parametrize(
    "predictions",
    [
        1.5,
        np.float64(1.5),
        np.array(1.5),
        None,
        "ab",
        b"ab",
        True,
        {1, 2},
        object(),
        iter([1, 2]),
        {"a": 1.5},
        {"a": "ab"},
    ],
    ids=shown,
)
def test_what_is_not_a_value_per_row_is_refused(predictions: Any) -> None:
    with pytest.raises(BadPredictions, match="the predictor returned"):
        to_table(predictions, 2)


@pytest.mark.parametrize(
    "predictions",
    [
        [1, "a"], np.array([1, "a"], object), np.array([1j, 2j]), {"a": [1, 2], "b": [1]},
        pd.DataFrame({"a": [1, "x"]}), pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), pd.Series([1, "x"]),
        pa.table([[1, 2], [3, 4]], ["a", "a"]), {1: [1, 2], "1": [3, 4]}, [object(), object()],
    ],
    ids=shown,
)  # fmt: skip
def test_what_arrow_cannot_hold_is_refused(predictions: Any) -> None:
    with pytest.raises(BadPredictions, match="the predictor returned"):
        to_table(predictions, 2)


@pytest.mark.parametrize(
    "predictions", [{"fine": [1, 2], "odd": [1, "x"]}, pd.DataFrame({"fine": [1, 2], "odd": [1, "x"]})]
)
def test_the_column_that_arrow_cannot_hold_is_named(predictions: Any) -> None:
    with pytest.raises(BadPredictions, match=r"that Arrow cannot hold: column 'odd': .*'x'"):
        to_table(predictions, 2)


@pytest.mark.parametrize("predictions", [[1], [1, 2, 3], np.ones((3, 2)), pd.DataFrame({"a": []}), {}, []])
def test_another_number_of_rows_is_refused(predictions: Any) -> None:
    with pytest.raises(BadPredictions, match="for a batch of 2 rows; one per row is expected"):
        to_table(predictions, 2)


# ---------------------------------------------------------------- the fixed schema


@pytest.mark.parametrize(
    ("spelled", "kind"),
    [
        ("double", pa.float64()),
        ("string", pa.string()),
        ("timestamp[us]", pa.timestamp("us")),
        ("timestamp[ms, tz=UTC]", pa.timestamp("ms", "UTC")),
        ("decimal(10, 2)", pa.decimal128(10, 2)),
        ("decimal128(10, 2)", pa.decimal128(10, 2)),
        ("list<float>", pa.list_(pa.float32())),
        ("list< float >[384]", pa.list_(pa.float32(), 384)),
        ("list<list<int8>[2]>", pa.list_(pa.list_(pa.int8(), 2))),
    ],
)
def test_types_are_spelled_as_arrow_does(spelled: str, kind: pa.DataType) -> None:
    assert parse_type("x", spelled) == kind
    assert parse_schema({"x": spelled}) == pa.schema([("x", kind)])


@pytest.mark.parametrize("spelled", ["", "flaot", "list<flaot>", "decimal(99,2)", "list<>", "timestamp[weeks]"])
def test_a_type_that_does_not_exist_is_named_with_its_column(spelled: str) -> None:
    with pytest.raises(ValueError, match=r"^x: .* is not a type; expected one such as bool"):
        parse_type("x", spelled)


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.null()), pa.struct([("a", pa.null())])])
def test_a_type_that_no_row_told_is_asked_for(kind: pa.DataType) -> None:
    with pytest.raises(BadPredictions, match=r"'p'.*predict\.output_schema=\{p: double"):
        fixed_schema(pa.schema([("p", kind)]))


def test_encodings_are_not_fixed() -> None:
    kinds = [
        pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.string_view(), pa.large_binary(),
        pa.large_list(pa.large_string()), pa.list_(pa.string_view(), 2), pa.struct([("a", pa.large_string())]),
    ]  # fmt: skip
    found = fixed_schema(pa.schema([(str(i), kind) for i, kind in enumerate(kinds)]))
    assert found.types == [
        pa.string(), pa.string(), pa.string(), pa.binary(), pa.list_(pa.string()), pa.list_(pa.string(), 2),
        pa.struct([("a", pa.string())]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([1, 2]), pa.float64()),
        (pa.array([1.0, None]), pa.int8()),
        (pa.array(["a", "b"]).dictionary_encode(), pa.string()),
        (pa.nulls(2), pa.list_(pa.float32(), 2)),
        (pa.array([[1.0, 2.0], None]), pa.list_(pa.float32(), 2)),
        (pa.array([0.1, float("inf")]), pa.float32()),
        (pa.array([1.5, float("nan")]), pa.float32()),
    ],
)
def test_values_that_fit_are_cast(values: pa.Array, kind: pa.DataType) -> None:
    assert conform(pa.table({"p": values}), pa.schema([("p", kind)])).schema.types == [kind]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([300]), pa.int8()),
        (pa.array([2.5]), pa.int64()),
        (pa.array([2**60 + 1]), pa.float64()),
        (pa.array([1e300]), pa.float32()),
        (pa.array(["x"]), pa.float64()),
        (pa.array([1], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([decimal.Decimal("1.25")]), pa.decimal128(3, 1)),
        (pa.array([[1.0, 2.0, 3.0]]), pa.list_(pa.float64(), 2)),
    ],
)
def test_values_that_do_not_fit_are_told_with_the_remedy(values: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(DoesNotFit, match=r"'p' is fixed as .*predict\.output_schema=\{p: \.\.\.\}"):
        conform(pa.table({"p": values}), pa.schema([("p", kind)]))


def test_columns_are_put_in_order_and_must_be_the_fixed_ones() -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    assert conform(pa.table({"b": [1], "a": [2]}), schema).to_pydict() == {"a": [2], "b": [1]}
    for wrong in ({"a": [1]}, {"a": [1], "c": [1]}):
        with pytest.raises(BadPredictions, match="are fixed"):
            conform(pa.table(wrong), schema)
