"""What text formats write is all that was predicted; what is not a number is found however deep it lies."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.arrow.schemas import NotANumber
from runner.predictor.calling import LocalCaller
from runner.sinks import formats
from runner.worker.predicting import Predicting

NAN = float("nan")
PAIRS = pa.map_(pa.string(), pa.float64())
DEEP = {
    "float": pa.array([1.0, NAN]),
    "list": pa.array([[1.0], [NAN]]),
    "fixed-size list": pa.array([[1.0], [NAN]], pa.list_(pa.float32(), 1)),
    "struct": pa.array([{"a": 1.0, "b": 1}, {"a": NAN, "b": 1}]),
    "list of structs": pa.array([[{"a": 1.0}], [{"a": NAN}]]),
    "struct of lists": pa.array([{"a": [1.0]}, {"a": [2.0, NAN]}]),
    "struct in a struct": pa.array([{"a": {"b": 1.0}}, {"a": {"b": NAN}}]),
    "map": pa.array([[("a", 1.0)], [("a", NAN)]], PAIRS),
    "list of maps": pa.array([[[("a", 1.0)]], [[("a", NAN)]]], pa.list_(PAIRS)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_nan_is_found_however_deep_it_lies(kind: str) -> None:
    predictions = pa.table({"p": DEEP[kind]})
    batch = pa.table({"row": [0, 1]})
    predicting = Predicting(
        LocalCaller(lambda rows: predictions.take(rows["row"])), ["row"], "arrow", None, refuse_nan=True
    )
    assert predicting(batch.slice(0, 1)).num_rows == 1
    for rows in (batch, batch.slice(1)):
        with pytest.raises(NotANumber, match="'p' is NaN"):
            predicting(rows)


def jsonl(values: pa.Array) -> list[Any]:
    file, schema = io.BytesIO(), pa.schema([("v", values.type)])
    formats.Jsonl().write(file, schema, iter([pa.table([values], schema=schema)]))
    return [json.loads(line)["v"] for line in file.getvalue().splitlines()]


def _nanoseconds(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    return int(Decimal(int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)) * 10**9)


@settings(deadline=None)
@given(st.lists(st.integers(0, 86_400 * 10**9 - 1), min_size=1, max_size=5))
def test_times_keep_their_nanoseconds(nanoseconds: list[int]) -> None:
    times = pa.array(nanoseconds, pa.time64("ns"))
    by_key = pa.MapArray.from_arrays(range(len(times) + 1), pa.array(["k"] * len(times)), times)
    assert [_nanoseconds(pairs[0][1]) for pairs in jsonl(by_key)] == nanoseconds
    for values in (times, pa.StructArray.from_arrays([times], ["t"]), pa.ListArray.from_arrays([0, len(times)], times)):
        found = jsonl(values)
        spelled = found[0] if isinstance(found[0], list) else [v["t"] if isinstance(v, dict) else v for v in found]
        assert [_nanoseconds(text) for text in spelled] == nanoseconds


@settings(deadline=None)
@given(st.lists(st.integers(-(2**60), 2**60), min_size=1, max_size=5))
def test_timestamps_keep_their_nanoseconds(nanoseconds: list[int]) -> None:
    times = pa.array(nanoseconds, pa.timestamp("ns"))
    assert pa.array(jsonl(times)).cast(pa.timestamp("ns")).equals(times)


CELLS = st.lists(
    st.tuples(st.text('a",\n', max_size=60), st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=20
)


@pytest.mark.parametrize("columns", [1, 2])
@settings(deadline=None)
@given(rows=CELLS, block=st.integers(8, 64))
def test_rows_of_csv_are_counted_block_by_block(columns: int, rows: list[tuple[str, int | None]], block: int) -> None:
    """Also where a row is longer than a block, and where a later block would be typed otherwise than the first."""
    texts = pa.array([text if number is None else str(number) for text, number in rows])
    table = pa.table([texts, pa.array([number for _, number in rows], pa.int64())][:columns], ["t", "n"][:columns])
    file = io.BytesIO()
    formats.Csv().write(file, table.schema, iter([table]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "COUNT_BLOCK", block)
        assert formats.Csv().count_rows(file) == len(rows)


def test_no_block_is_larger_than_pyarrow_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert formats.COUNT_BLOCK < formats.MOST_BLOCK < 2**31
    monkeypatch.setattr(formats, "COUNT_BLOCK", 64)
    monkeypatch.setattr(formats, "MOST_BLOCK", 256)
    content = b"a,b\n" + b'1,"x"\n' * 5_000
    assert formats.Csv().count_rows(io.BytesIO(content)) == 5_000
