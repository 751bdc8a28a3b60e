"""Requests in threads: in order, several at a time, never all answers at once."""

from __future__ import annotations

import threading

import pytest

from runner.storage.parallel import AHEAD, map_in_threads


@pytest.mark.parametrize("count", [0, 1, 100])
def test_answers_come_in_order(count: int) -> None:
    assert list(map_in_threads(lambda number: number * 2, range(count), 3)) == [2 * number for number in range(count)]


def test_several_are_asked_at_once() -> None:
    met = threading.Barrier(3, timeout=10)
    assert len(list(map_in_threads(lambda _: met.wait(), range(3), 3))) == 3


def test_only_a_few_are_asked_before_an_answer_is_taken() -> None:
    asked = iter(range(1000))
    answers = map_in_threads(str, asked, 2)
    assert next(answers) == "0"
    assert next(asked) == 2 * AHEAD


def test_the_first_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 // (number - 3), range(100), 2))
