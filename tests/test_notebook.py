"""From a notebook: what is at hand there is input, model and key; the predictions come back as a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import Runs

from runner import ConfigError, run

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [3, 2, 1]})
JOB: dict[str, Any] = {"mode": "inline", "sink.path": "out"}


class Doubling:
    """A model as a class."""

    def __call__(self, batch: Any) -> Any:
        return batch["a"] * 2


class Estimator:
    """What every library's estimators have."""

    def predict(self, rows: Any) -> Any:
        return np.asarray(rows)[:, 0] * 2


def doubled(batch: Any) -> Any:
    return batch["a"] * 2


@pytest.mark.parametrize("kind", ["pandas", "arrow", "batch"])
def test_a_frame_is_input_and_output(kind: str) -> None:
    table = pa.Table.from_pandas(FRAME)
    given = {"pandas": FRAME, "arrow": table, "batch": table.to_batches()[0]}[kind]
    report = run({**JOB, "source": given, "sink.keep_columns": ["b"]}, model=doubled)
    assert report.to_pandas().to_dict("list") == {"b": [3, 2, 1], "a": [2.0, 4.0, 6.0]}
    assert report.to_arrow().column_names == ["b", "a"]


def test_the_same_rows_are_the_same_input() -> None:
    first = run({**JOB, "source": FRAME}, model=doubled)
    again = run({**JOB, "source": FRAME.copy()}, model=doubled)
    assert (first.committed, again.committed, again.committed_before) == (1, 0, 1)
    assert again.to_pandas()["a"].tolist() == [2.0, 4.0, 6.0]
    other = run({**JOB, "source": FRAME * 2, "sink.path": "other"}, model=doubled)
    assert other.to_pandas()["a"].tolist() == [4.0, 8.0, 12.0]
    assert len(list(Path("outputs/inputs").iterdir())) == 2


def test_an_index_with_a_name_is_a_column() -> None:
    frame = FRAME.set_index(pd.Index([7, 8, 9], name="id"))
    report = run({**JOB, "source": frame, "sink.keep_columns": ["id"]}, model=doubled)
    assert report.to_pandas()["id"].tolist() == [7, 8, 9]


def test_in_every_mode(executor: Runs) -> None:
    report = executor({"source": FRAME, "sink.path": "out"}, model=Estimator())
    assert report.to_pandas()["prediction"].tolist() == [2.0, 4.0, 6.0]


def test_parts_are_read_in_order() -> None:
    many = pd.DataFrame({"a": np.arange(300_000.0)})
    report = run({**JOB, "source": many, "shard_bytes": 1}, model=doubled)
    assert report.shards > 1
    assert report.to_pandas()["a"].tolist() == (many["a"] * 2).tolist()


@pytest.mark.parametrize("sink", ["csv", "jsonl", "arrow"])
def test_predictions_of_every_format(sink: str) -> None:
    report = run({**JOB, "source": FRAME, "sink": sink}, model=doubled)
    assert report.to_pandas()["a"].tolist() == [2.0, 4.0, 6.0]


def test_an_estimator_gets_the_columns_that_it_was_fitted_on() -> None:
    linear = pytest.importorskip("sklearn.linear_model").LinearRegression().fit(FRAME[["a"]], FRAME["a"] * 3)
    report = run({**JOB, "source": FRAME}, model=linear)
    assert report.to_pandas()["prediction"].round(6).tolist() == [3.0, 6.0, 9.0]
    assert run({**JOB, "source": FRAME, "model": linear}).committed == 0


@pytest.mark.parametrize(
    "columns", [FRAME.columns, FRAME.columns.to_numpy(), ("a", "b"), [np.str_("a"), np.str_("b")], {"a": 0, "b": 1}.keys()],
    ids=["index", "array", "tuple", "numpy strings", "keys"],
)  # fmt: skip
def test_lists_of_any_kind(columns: Any) -> None:
    run({**JOB, "source": FRAME, "predict.columns": columns, "batch_size": np.int64(2)}, model=doubled)


def test_paths(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "x.parquet")
    config = {"source.path": [tmp_path / "x.parquet"], "sink": {"path": tmp_path / "out"}, "mode": "inline"}
    assert len(run(config, model=doubled).to_pandas()) == 3


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (Doubling, r"model=Doubling: is a class; give an instance, such as model=Doubling\(\.\.\.\)"),
        (3, "model=3: expected a function of a batch, or an estimator"),
    ],
    ids=["class", "number"],
)
def test_what_is_no_model_is_told(model: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run({**JOB, "source": FRAME}, model=model)


def test_a_frame_in_the_wrong_place_is_told() -> None:
    with pytest.raises(ConfigError, match=r"a DataFrame is given as \{'source': df\}"):
        run(FRAME, model=doubled)
