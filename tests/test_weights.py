"""One mapped copy of a model for many processes."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runner import weights


def round_trip(value: Any) -> Any:
    with tempfile.TemporaryFile() as file:
        weights.save(value, file)
        return weights.load(file.fileno())


@given(st.lists(arrays(np.float32, st.integers(0, 100), elements=st.floats(0, 1, width=32)), max_size=5))
def test_what_is_saved_is_loaded(values: list[np.ndarray[Any, Any]]) -> None:
    loaded = round_trip({"weights": values, "name": "é"})
    assert loaded["name"] == "é"
    assert all(np.array_equal(a, b) for a, b in zip(loaded["weights"], values, strict=True))


def test_a_process_that_writes_writes_to_a_copy_of_its_own() -> None:
    with tempfile.TemporaryFile() as file:
        weights.save(np.zeros(1000), file)
        one, other = weights.load(file.fileno()), weights.load(file.fileno())
        one += 1
        assert one.sum() == 1000
        assert other.sum() == 0
        assert weights.load(file.fileno()).sum() == 0


def test_a_closure_travels() -> None:
    factor = np.arange(3)
    assert round_trip(lambda x: x * factor)(2).tolist() == [0, 2, 4]


def test_big_arrays_are_mapped_and_not_copied() -> None:
    """What the pickle itself holds is small: the array lies beside it."""
    with tempfile.TemporaryFile() as file:
        size = weights.save(np.zeros(1_000_000), file)
        loaded = weights.load(file.fileno())
    assert size < 8_001_000
    assert loaded.base is not None, "the array owns its memory"


def test_what_cannot_be_pickled_is_an_error() -> None:
    import threading

    with tempfile.TemporaryFile() as file, pytest.raises(TypeError, match="cannot pickle"):
        weights.save(threading.Lock(), file)
