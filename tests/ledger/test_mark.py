"""The mark that keeps two runs from writing to one sink, and what happens to a run that lost it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Runs
from test_cluster import _wait_for_parts
from test_job import job, predicted, write_input
from test_kill import all_gone, family, start

from runner import Incomplete, run
from runner.ledger import holder as holder_module
from runner.ledger.holder import Holder, has_ended, holder_of, this_process
from runner.ledger.ledger import Ledger
from runner.ledger.mark import LATE_SECONDS, MARK, REFRESH_SECONDS, STALE_SECONDS, Mark
from runner.sinks.files import Files
from runner.storage.folder import Folder


def content(store: Folder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(MARK) or b"{}")
    return found


class Clock:
    """Time that passes when somebody sleeps, and what happens meanwhile."""

    def __init__(self, time: float = 1e6, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.time, self.meanwhile = time, meanwhile

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.meanwhile()

    def mark(self, store: Folder, run_id: str) -> Mark:
        return Mark(store, run_id, self.now, self.sleep)


def far(refreshed: float, **more: Any) -> bytes:
    """The mark of a run on another host."""
    return replace(Holder("far", "elsewhere", "pid:[1]", 1, "1", 0.0, refreshed), **more).to_json()


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    with Mark(store, "first"), pytest.raises(Incomplete, match="another run is writing here: first") as refused:
        Mark(store, "second").__enter__()
    assert refused.value.exit_code == 75
    assert store.read(MARK) is None, "the mark outlived its run"


KILLED = "import os; from runner.ledger.mark import Mark; from runner.storage.folder import Folder\n\
Mark(Folder({place!r}), 'killed').__enter__(); os.kill(os.getpid(), 9)"


def test_a_mark_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    """As after a SIGKILL: the same command again must not wait."""
    code = KILLED.format(place=str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Folder(str(tmp_path))
    assert content(store)["run_id"] == "killed"
    with Mark(store, "next"):
        assert content(store)["run_id"] == "next"


def test_a_process_that_nobody_has_waited_for_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED.format(place=str(tmp_path))])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now, and stays one
    try:
        with Mark(Folder(str(tmp_path)), "next"):
            assert content(Folder(str(tmp_path)))["run_id"] == "next"
    finally:
        process.wait()


def test_a_mark_of_another_host_is_taken_over_once_it_is_stale(tmp_path: Path) -> None:
    store, clock = Folder(str(tmp_path)), Clock()
    store.replace(MARK, far(clock.now() - STALE_SECONDS + 1))
    with pytest.raises(Incomplete, match="far on elsewhere, process 1"):
        clock.mark(store, "next").__enter__()
    store.replace(MARK, far(clock.now() - STALE_SECONDS - 1))
    with clock.mark(store, "next"):
        assert content(store)["run_id"] == "next"


def test_a_mark_of_the_future_is_watched_and_taken_over_when_nobody_refreshes_it(tmp_path: Path) -> None:
    """The clock of its host was ahead, by a minute or by years: its time says nothing."""
    store, clock = Folder(str(tmp_path)), Clock()
    store.replace(MARK, far(clock.now() + 1e8))
    with clock.mark(store, "next"):
        assert content(store)["run_id"] == "next"
    assert clock.time >= 1e6 + STALE_SECONDS


def test_a_mark_of_the_future_that_is_refreshed_is_respected(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    clock = Clock(meanwhile=lambda: store.replace(MARK, far(clock.now() + 1e8)))
    store.replace(MARK, far(clock.now() + 1e8))
    with pytest.raises(Incomplete, match="another run is writing here: far"):
        clock.mark(store, "next").__enter__()


STRANGE: list[Any] = [None, [], {}, "soon", True, -1, 10**400, 1e400]
ODD: list[bytes] = [
    b"", b"{torn", b"[]", b"null", b"3", b'"text"', b"{}", b"\xff",
    *(json.dumps({"run_id": "far", "host": "there", "pid": odd, "since": odd, "refreshed": odd, "started": odd}).encode()
      for odd in STRANGE),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ODD)))
def test_a_mark_of_other_types_does_not_stop_a_run(tmp_path: Path, number: int) -> None:
    store = Folder(str(tmp_path))
    store.replace(MARK, ODD[number])
    with Mark(store, "next"):
        assert content(store)["run_id"] == "next"


@pytest.mark.parametrize("odd", [None, [], "soon", -1, 10**400])
def test_a_fresh_mark_is_respected_whatever_else_it_says(tmp_path: Path, odd: Any) -> None:
    store, clock = Folder(str(tmp_path)), Clock()
    given = {"run_id": "far", "host": odd, "pid": odd, "since": odd, "started": odd, "refreshed": clock.now()}
    store.replace(MARK, json.dumps(given).encode())
    with pytest.raises(Incomplete, match="another run is writing here: far"):
        clock.mark(store, "next").__enter__()


# ---------------------------------------------------------------- what can be known of a process


def test_a_process_number_that_is_used_again_is_not_the_same_process() -> None:
    here = this_process("other", 0, 0)
    assert not has_ended(here, {"other"})
    assert has_ended(here, set()), "a run of this process that left its mark behind"
    earlier = replace(here, started="an earlier time")
    assert has_ended(earlier, set())
    assert not has_ended(replace(earlier, host="elsewhere"), set())
    assert not has_ended(replace(earlier, processes="pid:[1]"), set()), "another PID namespace on the same host"
    assert not has_ended(replace(earlier, processes=""), set()), "a mark of an earlier version"


def test_a_process_that_is_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`/proc` mounted with `hidepid` shows no process of another user, but the system still tells that it is there."""
    monkeypatch.setattr(holder_module, "_began", lambda _: None)
    held = replace(this_process("other", 0, 0), pid=1)
    assert not has_ended(held, set())
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert has_ended(replace(held, pid=gone.pid), set())


def test_what_a_mark_says_comes_back() -> None:
    held = this_process("me", 3.5, 4.5)
    assert holder_of(held.to_json()) == held
    assert held.pid == os.getpid()


def _namespaces() -> bool:
    unshare = shutil.which("unshare")
    command = [unshare or "", "--pid", "--fork", "--mount-proc", "true"]
    return unshare is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_run_in_another_pid_namespace_lives_until_it_is_not_heard_of(tmp_path: Path) -> None:
    """As from one container to the other: neither sees the other's processes."""
    if not _namespaces():
        pytest.skip("this test needs `unshare --pid --mount-proc`, which takes root")
    store = Folder(str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.part-00000000-0123456789abcdef.parquet.0a1b2c3d.tmp").touch()
    code = f"from runner.ledger.mark import Mark; from runner.storage.folder import Folder\n\
with Mark(Folder({str(tmp_path / 'out')!r}), 'other'): print('held', flush=True); input()"
    outside = ["unshare", "--pid", "--fork", "--mount-proc"]
    running = subprocess.Popen(
        [*outside, sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    held = holder_of(store.read(MARK) or b"")
    assert held.host == this_process("", 0, 0).host
    write_input(tmp_path / "in")
    with pytest.raises(Incomplete, match="another run is writing here: other"):
        run(job(tmp_path, mode="inline"))
    assert list((tmp_path / "out").glob(".part-*.tmp")), "it may be the other run's"
    running.communicate("\n")
    assert running.returncode == 0


# ---------------------------------------------------------------- a run that lost its mark


def test_a_run_leaves_no_mark_and_respects_one(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    store = Folder(str(tmp_path / "out"))
    with Mark(store, "other"), pytest.raises(Incomplete, match="another run"):
        run(job(tmp_path, mode="inline"))
    run(job(tmp_path, mode="inline"))
    assert store.read(MARK) is None
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    with Mark(store, "other"), pytest.raises(Incomplete, match="another run"):
        run(job(tmp_path, mode="inline", **{"sink.save_mode": "overwrite"}))
    assert predicted(tmp_path) == [2 * x for x in range(100)], "wiped under a fresh mark"


def test_a_mark_that_was_taken_over_is_not_refreshed_and_not_taken_away(tmp_path: Path) -> None:
    store, clock = Folder(str(tmp_path)), Clock()
    with clock.mark(store, "me") as mark:
        mark.confirm()
        store.replace(MARK, far(clock.now()))
        mark._refresh()
        with pytest.raises(Incomplete, match="took it over: far on elsewhere"):
            mark.ensure_held()
    assert store.read(MARK) == far(clock.now())


def test_a_mark_that_is_gone_is_lost(tmp_path: Path) -> None:
    store, clock = Folder(str(tmp_path)), Clock()
    with clock.mark(store, "me") as mark:
        store.delete(MARK)
        with pytest.raises(Incomplete, match="its mark is gone"):
            mark.confirm()
        mark._refresh()
    assert store.read(MARK) is None


def test_the_mark_is_read_again_only_after_a_time_without_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock, read = Folder(str(tmp_path)), Clock(), []
    plain = Folder.read
    monkeypatch.setattr(Folder, "read", lambda store, name: read.append(name) or plain(store, name))  # type: ignore[func-returns-value]
    with clock.mark(store, "me") as mark:
        for _ in range(100):
            mark.ensure_held()
        assert not read
        clock.time += LATE_SECONDS + 1
        for _ in range(100):
            mark.ensure_held()
        assert len(read) == 1
        clock.time -= 1e5  # set back by hand
        mark.ensure_held()
        assert len(read) == 2


def test_a_storage_that_does_not_answer_does_not_stop_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock, asked = Folder(str(tmp_path)), Clock(), []

    def fail(store: Folder, name: str) -> bytes:  # noqa: ARG001
        asked.append(name)
        raise ConnectionResetError("gone")

    with clock.mark(store, "me") as mark:
        with monkeypatch.context() as patched:
            patched.setattr(Folder, "read", fail)
            clock.time += LATE_SECONDS + 1
            for _ in range(100):
                mark.ensure_held()
            assert len(asked) == 1, "not at each turn"
            clock.time += REFRESH_SECONDS
            mark.ensure_held()
            assert len(asked) == 2
        mark.confirm()


def take_over(out: Path) -> None:
    """What a minute without a refresh leads to."""
    store = Folder(str(out))
    store.replace(MARK, replace(holder_of(store.read(MARK) or b""), refreshed=0.0).to_json())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["inline", "processes", "tasks", "actors"])
def test_a_run_that_stood_still_while_another_job_replaced_its_output_adds_nothing(tmp_path: Path, mode: str) -> None:
    """SIGSTOP, as by Ctrl-Z, a paused machine, or a disk that hangs."""
    write_input(tmp_path / "in", files=8)
    stopped = start(tmp_path, mode, "model.seconds=0.3")
    _wait_for_parts(tmp_path, 2, stopped)
    processes = family(stopped)
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    take_over(tmp_path / "out")
    other = {"mode": "inline", "model.factor": 3}
    assert run(job(tmp_path, **other, **{"sink.save_mode": "overwrite"})).status == "complete"
    before = sorted(path.name for path in (tmp_path / "out").glob("*"))
    for each in processes:
        each.send_signal(signal.SIGCONT)
    _, errors = stopped.communicate(timeout=90)
    assert stopped.returncode == 75, errors
    assert re.search("took it over|taken the sink over", errors)
    assert all_gone(processes)
    there = sorted(path.name for path in (tmp_path / "out").glob("*"))
    assert [name for name in there if not name.startswith(".part-")] == before, (
        "what was killed while it wrote is hidden"
    )
    assert predicted(tmp_path) == [3 * x for x in range(200)]
    assert (tmp_path / "out/_SUCCESS").exists()
    assert run(job(tmp_path, **other)).committed == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*")) == before, "and is gone after the next run"


def test_a_part_is_kept_back_once_the_sink_has_another_recipe(executor: Runs, tmp_path: Path) -> None:
    """Whatever the driver knows: it may be stopped, or its network gone, while its workers go on."""
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline", **{"sink.path": str(tmp_path / "theirs"), "model.factor": 3}))
    recipe = (tmp_path / "theirs/_runner/recipe.json").read_bytes()
    (tmp_path / "recipe").write_bytes(recipe)
    swapping = {"from_": str(tmp_path / "recipe"), "to": str(tmp_path / "out/_runner/recipe.json"), "value": 40}
    given = {f"model.{name}": value for name, value in swapping.items()}
    with pytest.raises(Incomplete, match="another run has taken the sink over"):
        executor(job(tmp_path, "swapping", **given, **{"errors.max_lost_workers": 0}))
    committed = predicted(tmp_path)
    assert not set(committed) & set(range(80, 100)), "the shard in which the recipe changed was published"
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert not list((tmp_path / "out").rglob(".part-*"))


def test_a_run_of_the_same_recipe_is_no_reason_to_stop(tmp_path: Path) -> None:
    """It would publish the same parts under the same names."""
    write_input(tmp_path / "in")
    with pytest.raises(Exception, match="cannot predict 80"):
        run(job(tmp_path, "failing_on", mode="inline", **{"model.value": 80}))
    sink = Files("parquet", str(tmp_path / "out"))
    first, second = Ledger(sink, "first"), Ledger(sink, "second")
    assert first.seal == second.seal is not None
    assert first.recorded is not None
    again = replace(first.recorded, output_schema=None)
    second.rewrite_recipe(again)
    assert first.seal is not None
    assert first.store.holds(first.seal)
    second.rewrite_recipe(replace(again, run="another"))
    assert not first.store.holds(first.seal)


def test_a_recipe_of_an_earlier_version_can_be_held_to(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(Exception, match="cannot predict 80"):
        run(job(tmp_path, "failing_on", mode="inline", **{"model.value": 80, "model.unless": str(tmp_path / "well")}))
    recipe = tmp_path / "out/_runner/recipe.json"
    told = {name: value for name, value in json.loads(recipe.read_text()).items() if name not in {"run", "replaced"}}
    recipe.write_text(json.dumps(told, indent=2))
    (tmp_path / "well").touch()
    given = {"model.value": 80, "model.unless": str(tmp_path / "well")}
    assert run(job(tmp_path, "failing_on", mode="inline", **given)).status == "complete"


@pytest.mark.parametrize("late", [False, True])
def test_receipts_of_a_run_that_lost_the_sink_are_not_written_into_it(tmp_path: Path, late: bool) -> None:
    sink = Files("parquet", str(tmp_path / "out"))
    ledger = Ledger(sink, "me")
    clock = Clock()
    ledger.mark = clock.mark(sink.records, "me")
    with ledger.mark:
        ledger._receipts = [None]  # type: ignore[list-item]
        ledger.store.replace(MARK, far(clock.now()))
        clock.time += LATE_SECONDS + 1
        with pytest.raises(Incomplete):
            ledger.flush() if late else ledger.finish()
    assert not list((tmp_path / "out").rglob("receipts-*"))


def test_nothing_is_begun_after_a_minute_of_standing_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver alone notices, before it hands out another shard."""
    write_input(tmp_path / "in")
    monkeypatch.setattr(Mark, "_keep_fresh", lambda _: None)
    monkeypatch.setattr(Folder, "holds", lambda *_: True)
    counted = tmp_path / "calls"
    counted.mkdir()
    plain = Ledger.receive

    def receive(ledger: Ledger, *given: Any) -> None:
        plain(ledger, *given)
        ledger.store.replace(MARK, far(time.time()))
        ledger.mark._now = lambda: time.time() + STALE_SECONDS

    monkeypatch.setattr(Ledger, "receive", receive)
    with pytest.raises(Incomplete, match="took it over: far"):
        run(job(tmp_path, mode="inline", **{"predict.output_schema": {"twice": "int64"}}))
    assert len(predicted(tmp_path)) == 25
