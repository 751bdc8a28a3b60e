from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest

from models.taxi import load
from runner.testing import check_loader


def test_scores_whether_the_number_of_passengers_is_even() -> None:
    scores = load()(pd.DataFrame({"passenger_count": np.array([0, 1, 2, 3, 6], "int8")}))
    assert scores.columns.tolist() == ["score"]
    assert scores["score"].tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("dtype", ["float64", "Int8", "object"])
def test_an_unknown_number_is_not_even_whatever_holds_it(dtype: Any) -> None:
    missing = None if dtype == "object" else pd.NA if dtype == "Int8" else np.nan
    scores = load()(pd.DataFrame({"passenger_count": pd.Series([2, missing, 3], dtype=dtype)}))
    assert scores["score"].dtype == np.dtype(bool)
    assert scores["score"].tolist() == [True, False, False]


def test_keeps_the_index_and_takes_an_empty_batch() -> None:
    batch = pd.DataFrame({"passenger_count": np.array([4, 5], "int8")}, index=[7, 9])
    assert load()(batch).index.tolist() == [7, 9]
    assert len(load()(batch.head(0))) == 0


def test_the_payload_travels_with_every_copy_and_can_be_shared() -> None:
    buffers: list[pickle.PickleBuffer] = []
    small = cloudpickle.dumps(load(payload_bytes=1_000_000), protocol=5, buffer_callback=buffers.append)
    assert len(cloudpickle.dumps(load(payload_bytes=1_000_000))) > 1_000_000
    assert len(small) < 10_000
    assert sum(buffer.raw().nbytes for buffer in buffers) == 1_000_000
    again = pickle.loads(small, buffers=buffers)
    assert again(pd.DataFrame({"passenger_count": [2, 1]}))["score"].tolist() == [True, False]


@pytest.mark.parametrize("payload_bytes", [0, 1_000])
def test_it_keeps_the_promises_of_a_loader(payload_bytes: int) -> None:
    batch = pd.DataFrame({"passenger_count": np.array([0, 1, 2, 3, 6], "int8")})
    check_loader(partial(load, payload_bytes=payload_bytes), batch)
