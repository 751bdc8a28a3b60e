"""Predictions stay beside their rows: by pandas' labels where there are any, by position only where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_job import job, parts, write_input

from runner import JobFailed
from runner.arrow.labels import aligned
from runner.arrow.predictions import to_table
from runner.arrow.schemas import BadPredictions

ORDERS = st.integers(1, 20).flatmap(lambda rows: st.permutations(range(rows)))
BATCH = pa.table({"x": [30, 10, 20], "id": ["c", "a", "b"], "twin": ["t", "t", "u"]})
FRAME = BATCH.to_pandas()


def values(predictions: Any, batch: pa.Table = BATCH, given: Any = None) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = to_table(aligned(predictions, batch, given), batch.num_rows).to_pydict()
    return found


def as_series(frame: pd.DataFrame) -> Any:
    return frame["p"]


def as_table(frame: pd.DataFrame) -> Any:
    return pa.Table.from_pandas(frame)


def as_columns(frame: pd.DataFrame) -> Any:
    return {"p": frame["p"], "q": frame["p"].sample(frac=1, random_state=1)}


@settings(deadline=None)
@given(
    ORDERS,
    st.sampled_from([pd.DataFrame.copy, as_series, as_table, as_columns]),
    st.sampled_from(["int64", "int8", "float"]),
)
def test_whatever_order_the_labels_come_in_each_prediction_stays_beside_its_row(
    order: list[int], form: Any, kind: str
) -> None:
    batch = pa.table({"x": list(range(len(order)))})
    frame = pd.DataFrame({"p": batch.to_pandas()["x"] * 2}).iloc[order]
    frame.index = frame.index.astype(kind)
    found = values(form(frame), batch)
    assert all(column == [2 * x for x in range(len(order))] for column in found.values())


@settings(deadline=None)
@given(st.lists(st.integers(-3, 12), min_size=1, max_size=10))
def test_what_the_labels_leave_open_is_refused_and_never_guessed(labels: list[int]) -> None:
    series = pd.Series(labels, index=labels)
    rows = list(range(len(labels)))
    batch = pa.table({"x": rows})
    if sorted(labels) == rows:
        assert values(series, batch) == {"prediction": rows}
    else:
        with pytest.raises(BadPredictions, match="not known which rows"):
            aligned(series, batch)


SORTED = FRAME.sort_values("x")
IN_ORDER: dict[str, Any] = {
    "groups one after the other": pd.concat([FRAME[FRAME["x"] > 15]["x"], FRAME[FRAME["x"] <= 15]["x"]]),
    "backwards": FRAME["x"][::-1],
    "backwards as Arrow": pa.Table.from_pandas(FRAME[["x"]][::-1]),
    "by a column of the batch": FRAME.set_index("id")["x"],
    "by a column of the batch, sorted": FRAME.set_index("id").sort_index()["x"],
    "by a column with a label twice, in order": FRAME.set_index("twin")["x"],
    "by groups of one row": FRAME.groupby("id")["x"].sum(),
    "by a column that holds row numbers": FRAME.assign(n=[2, 0, 1]).set_index("n")["x"].reindex([2, 0, 1]),
    "numbered anew": FRAME.set_index("id").reset_index(drop=True)["x"],
    "a new frame": pd.DataFrame({"x": [30, 10, 20]}),
    "an array": FRAME["x"].to_numpy(),
    "an index": pd.Index([30, 10, 20]),
    "columns": {"x": SORTED["x"], "y": FRAME["x"]},
    "columns without labels": {"x": [30, 10, 20], "y": FRAME["x"]},
}


@pytest.mark.parametrize("form", IN_ORDER)
def test_predictions_are_beside_their_rows(form: str) -> None:
    batch = BATCH.append_column("n", pa.array([2, 0, 1])) if "row numbers" in form else BATCH
    found = values(IN_ORDER[form], batch)
    assert all(column == [30, 10, 20] for column in found.values())


REFUSED: dict[str, tuple[Any, str]] = {
    "other labels": (pd.Series([1, 2, 3], index=["p", "q", "r"]), r"its index \('p', 'q', 'r', ...\) holds other labels"),
    "numbers of other rows": (pd.Series([1, 2, 3], index=[5, 6, 7]), "other labels"),
    "times": (pd.Series([1, 2, 3], index=pd.date_range("2026-01-01", periods=3)), "other labels"),
    "numbered anew in pieces": (pd.concat([pd.Series([1, 2]), pd.Series([3])]), "the label 0 twice .*ignore_index=True"),
    "a group of two rows": (FRAME.set_index("twin").sort_index(ascending=False)["x"], "twice"),
    "groups above the labels": (pd.concat({"a": FRAME["x"][1:], "b": FRAME["x"][:1]}), "other labels"),
    "columns of which one has no labels": ({"p": SORTED["x"], "q": [1, 2, 3]}, "'p' with labels in another order .* 'q' without"),
    "a column of other labels": ({"p": FRAME["x"], "q": pd.Series([1, 2, 3], index=[7, 8, 9])}, "other labels"),
}  # fmt: skip


@pytest.mark.parametrize("form", REFUSED)
def test_labels_that_do_not_tell_are_refused_with_the_remedy(form: str) -> None:
    predictions, message = REFUSED[form]
    with pytest.raises(BadPredictions, match=message):
        aligned(predictions, BATCH)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_batch_that_was_sorted_in_place_needs_labels() -> None:
    batch = BATCH.to_pandas()
    batch.sort_values("x", inplace=True)
    assert values(batch["x"], given=batch) == {"x": [30, 10, 20]}
    for bare in (batch["x"].to_numpy(), {"p": batch["x"].to_numpy()}):
        with pytest.raises(BadPredictions, match="sorted its batch in place"):
            aligned(bare, BATCH, batch)


@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_a_batch_that_got_another_index_in_place_is_read_by_it() -> None:
    batch = BATCH.to_pandas()
    batch.set_index("id", inplace=True)
    assert values(batch["x"], given=batch) == {"x": [30, 10, 20]}
    assert values(batch["x"].to_numpy(), given=batch) == {"prediction": [30, 10, 20]}


def test_what_is_in_order_is_returned_as_it_is() -> None:
    for predictions in (FRAME, FRAME["x"], np.arange(3), [1, 2, 3], BATCH):
        assert aligned(predictions, BATCH) is predictions


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
def test_the_model_of_each_segment_predicts_its_rows(executor: Runs, tmp_path: Path, kind: str) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, "segments", **{"predict.input": kind, "sink.keep_columns": ["x"]}))
    for part in parts(tmp_path):
        table = pq.read_table(part)
        assert table["twice"].to_pylist() == [2 * x for x in table["x"].to_pylist()]


def test_labels_that_do_not_tell_fail_the_job_and_blame_no_row(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(JobFailed, match="not known which rows its predictions belong to"):
        executor(job(tmp_path, "relabelled", errors="quarantine"))
    assert not parts(tmp_path)
