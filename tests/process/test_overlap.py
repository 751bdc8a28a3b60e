"""Threads that read ahead and write behind: in order, not far, and gone in the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Runs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_job import job, parts, predicted, write_input

from runner import Incomplete, JobFailed, run
from runner.process.overlap import DEPTH, Handover, ReadAhead, background, fill_queue
from runner.sinks import formats


def counting(length: int, log: list[str], name: str = "") -> Iterator[int]:
    try:
        for i in range(length):
            log.append(f"{name}{i}")
            yield i
    finally:
        log.append(f"{name}closed")


def settled(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true; threads take their time."""
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def all_closed(log: list[str]) -> bool:
    """Whether every iterator that was begun is, soon, run by no thread any more."""
    return settled(lambda: {entry[0] for entry in log} == {entry[0] for entry in log if entry.endswith("closed")})


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 4))
def test_everything_comes_in_order(lengths: list[int], threads: int) -> None:
    sources = {i: partial(counting, length, []) for i, length in enumerate(lengths)}
    with ReadAhead(sources, threads) as ahead:
        assert [list(ahead.take(i)) for i in sources] == [list(range(length)) for length in lengths]


@pytest.mark.parametrize("threads", [1, 3])
def test_little_is_read_before_it_is_taken(threads: int) -> None:
    log: list[str] = []
    sources = {name: partial(counting, 10, log, name) for name in "abcdefgh"}
    with ReadAhead(sources, threads) as ahead:
        assert next(ahead.take("a")) == 0
        assert settled(lambda: len(log) >= threads * (DEPTH + 1) + 1)
        time.sleep(0.05)
        assert len(log) <= threads * (DEPTH + 1) + 1
    assert all_closed(log)


def test_short_ones_are_not_read_far_ahead() -> None:
    log: list[str] = []
    with ReadAhead({name: partial(counting, 1, log, name) for name in "abcdefgh"}, 1) as ahead:
        assert list(ahead.take("a")) == [0]
        time.sleep(0.05)
        assert {entry[0] for entry in log} <= {"a", "b"}
        assert list(ahead.take("b")) == [0]
        assert settled(lambda: "cclosed" in log)


def failing() -> Iterator[int]:
    yield 1
    raise OSError("broken")


def test_an_error_comes_after_what_was_read_and_the_next_goes_on() -> None:
    sources: dict[str, Callable[[], Iterator[int]]] = {"bad": failing, "good": partial(counting, 3, [])}
    with ReadAhead(sources) as ahead:
        taken = ahead.take("bad")
        assert next(taken) == 1
        with pytest.raises(OSError, match="broken"):
            next(taken)
        assert list(ahead.take("good")) == [0, 1, 2]


def test_what_is_given_up_is_closed() -> None:
    log: list[str] = []
    with ReadAhead({name: partial(counting, 100, log, name) for name in "abc"}) as ahead:
        assert next(ahead.take("a")) == 0
        assert list(ahead.take("c")) == list(range(100))
        assert "aclosed" in log
        assert "b99" not in log
    assert all_closed(log)


def test_who_hands_over_learns_that_nobody_takes() -> None:
    handover: Handover[int] = Handover()
    log: list[str] = []
    future = background(lambda: fill_queue(handover, counting(100, log)))
    assert next(iter(handover)) == 0
    handover.leave()
    future.result(20)
    assert log[-1] == "closed"
    assert len(log) < 10


def test_what_a_thread_raises_is_the_futures() -> None:
    with pytest.raises(ZeroDivisionError):
        background(lambda: 1 // 0).result(20)


def test_threads_are_used_again() -> None:
    assert len({background(threading.get_ident).result(20) for _ in range(200)}) < 100


def test_there_are_as_many_threads_as_there_is_to_do() -> None:
    together = threading.Barrier(9)
    waiting = [background(lambda: together.wait(20)) for _ in range(9)]
    assert sorted(each.result(20) for each in waiting) == list(range(9))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_threads_of_its_own() -> None:
    background(lambda: None).result(20)
    child = os.fork()
    if child == 0:
        try:
            os._exit(background(lambda: 7).result(20))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# ---------------------------------------------------------------- in a job


def test_a_sink_that_fails_in_mid_shard_ends_the_predicting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(_: Any, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:  # noqa: ARG001
        next(tables)
        raise PermissionError("no more")

    monkeypatch.setattr(formats.Parquet, "write", write)
    write_input(tmp_path / "in", files=1, rows=1000)
    (tmp_path / "calls").mkdir()
    config = job(tmp_path, "counting", mode="inline", **{"model.folder": str(tmp_path / "calls")})
    with pytest.raises(Incomplete, match="no more"):
        run(config)
    assert len(list((tmp_path / "calls").iterdir())) < 10, "of 100 batches"
    assert parts(tmp_path) == []


def test_the_predictor_stays_on_one_thread(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    executor(job(tmp_path, "staying"))
    assert predicted(tmp_path) == [2 * x for x in range(100)]


def test_a_file_that_breaks_off_does_not_hold_up_the_next(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=6)
    file = tmp_path / "in/002.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:200] + bytes(200) + content[400:])
    with pytest.raises(JobFailed, match=r"002\.parquet cannot be read"):
        executor(job(tmp_path, **{"errors.stop_after_failed_shards": 9}))
    assert predicted(tmp_path) == [2 * x for x in range(150) if not 50 <= x < 75]
