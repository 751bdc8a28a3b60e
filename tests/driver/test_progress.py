"""What people see while a job runs: one line however narrow the terminal is, colour where there is a terminal, totals at the end."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from outside import ROWS, write_data, write_ops
from pyarrow import csv
from rich.console import Console

from runner import JobFailed, run
from runner.__main__ import main
from runner.cli import _Jobs
from runner.driver.progress import Bar, Plain
from runner.modes.moving import RowsInFlight
from runner.process.pulse import Moving, Pulse
from runner.types import Failure, Receipt, Stages
from runner.words import paint


def receipt(rows: int) -> Receipt:
    return Receipt("s", rows, rows, 0, 1, "sha256:", Stages(), "here:1")


def bar(width: int, *, failed: int = 0, written: io.StringIO | None = None) -> Bar:
    """A big job half way."""
    shown = Bar(Console(file=written or io.StringIO(), width=width, force_terminal=True, color_system=None))
    shown.start(12_000, 2_000, 1_234_567_890)
    for _ in range(3_000):
        shown.update(1_024, receipt(98_765))
    for _ in range(failed):
        shown.update(1_024, failure=Failure("s", "lost", "gone"))
    return shown


def lines(shown: Bar, width: int) -> list[str]:
    """The bar as it is drawn."""
    shown.close()
    written = io.StringIO()
    Console(file=written, width=width).print(shown._line())
    return written.getvalue().splitlines()


@pytest.mark.parametrize("width", [200, 120, 80, 60])
def test_the_bar_is_one_line_with_what_matters(width: int) -> None:
    (line,) = lines(bar(width, failed=2), width)
    assert len(line) <= width
    assert "5,000/12,000 shards" in line
    assert "296,295,000 rows" in line
    assert "━" in line


def test_at_80_columns_it_tells_the_rate_or_when_it_ends() -> None:
    (line,) = lines(bar(80), 80)
    assert "eta 0:" in line
    (line,) = lines(bar(160, failed=2), 160)
    assert all(word in line for word in ("rows/s", "1,024 in flight", "2 failed", "eta 0:"))


@pytest.mark.parametrize("width", [30, 20, 5])
def test_a_very_narrow_bar_is_one_line_too(width: int) -> None:
    (line,) = lines(bar(width), width)
    assert len(line) <= width


def test_a_long_line_of_what_happens_first_is_cut_and_not_wrapped() -> None:
    written = io.StringIO()
    shown = Bar(Console(file=written, width=40, force_terminal=True, color_system=None))
    with shown.during("fetching " + "x" * 100):
        (line,) = [*shown._console.render_lines(shown._before.get_renderable(), pad=False)]
    shown.close()
    assert sum(len(segment.text) for segment in line) <= 40


def test_nothing_is_known_of_the_end_before_anything_is_done() -> None:
    shown = Bar(Console(file=io.StringIO(), width=80))
    shown.start(1, 0, None)
    (line,) = lines(shown, 80)
    assert "eta -:--:--" in line
    assert "in flight" not in line


# ---------------------------------------------------------------- colour


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Stderr as a real terminal, whose other end is given."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr("sys.stderr", stream)
        yield ours
    os.close(ours)


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": ""}])
def test_errors_are_red_on_a_terminal(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_on_a_terminal(variables, monkeypatch)
    assert told == "\x1b[1;31merror:\x1b[0m batch_size=0: expected a whole number >= 1\r\n"


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_errors_are_plain_for_those_who_want_it(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_on_a_terminal(variables, monkeypatch) == "error: batch_size=0: expected a whole number >= 1\r\n"


def told_on_a_terminal(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with terminal(monkeypatch) as other_end:
        assert main(["mode=inline", "batch_size=0"]) == 2
        return os.read(other_end, 10_000).decode()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_errors_are_plain_elsewhere(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    assert paint.painted("error: no") == "error: no"
    if stream is not None:
        stream.close()
        assert paint.painted("error: no") == "error: no"


def test_a_failed_shard_is_red_above_the_bar() -> None:
    written = io.StringIO()
    shown = Bar(Console(file=written, width=80, force_terminal=True, color_system="standard", no_color=False))
    shown.say("failed: [bold]part[/] was lost")
    shown.say("note: failed: no")
    assert written.getvalue() == "\x1b[1;31mfailed:\x1b[0m [bold]part[/] was lost\nnote: failed: no\n"


# ---------------------------------------------------------------- the total of a sweep


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    return tmp_path


SWEEP = ("mode=inline", "-m", "sink.path=out/${hydra:job.num}")


def total(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line."""
    return capsys.readouterr().out.splitlines()[-1]


def test_a_sweep_ends_with_a_total(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.exists()
    assert main([*SWEEP, "source.path=in", "batch_size=5,6"]) == 0
    assert re.fullmatch(rf"2 jobs: 2 complete; {2 * ROWS} rows in \d+\.\d s", total(capsys))
    assert main([*SWEEP, "source.path=in", "batch_size=5,6", "action=verify"]) == 0
    assert re.fullmatch(r"2 jobs: 2 done; \d+\.\d s", total(capsys))


def test_the_total_names_the_jobs_that_did_not_end_well(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_file("parquet")
    argv = [*SWEEP, "source.path=x.parquet", "model=custom"]
    (place / "out/2").mkdir(parents=True)
    (place / "out/2/theirs").touch()
    assert main([*argv, "model._target_=predictors.doubling,predictors.raising,predictors.doubling"]) == 2
    told = r"3 jobs: 1 complete, 1 failed \[1\], 1 refused \[2\]; 500 rows in \d+\.\d s"
    assert re.fullmatch(told, total(capsys))


def test_the_total_of_a_sweep_that_was_stopped() -> None:
    total = _Jobs([], [], codes=[0, 130], left=2).total()
    assert re.fullmatch(r"4 jobs: 1 done, 1 interrupted \[1\], 2 not begun; \d+\.\d s", total)


def test_one_job_has_no_total(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.exists()
    assert main(["source.path=in", "mode=inline", "sink.path=out"]) == 0
    assert total(capsys).startswith("  output ")


# ---------------------------------------------------------------- input that one worker reads alone


def one_file(kind: str) -> None:
    """A file that is one shard."""
    table = pa.table({"x": list(range(500))})
    if kind == "parquet":
        pq.write_table(table, "x.parquet")
    else:
        with pa.CompressedOutputStream("x.csv.gz", "gzip") as file:
            csv.write_csv(table, file)


TOLD = {
    "csv.gz": r"/x\.csv\.gz is one shard \(.*\), which one of 2 workers predicts alone: a compressed file is not divided; "
    "to use more workers, write it as several files, or uncompressed",
    "parquet": r"/x\.parquet is one shard .* which one of 2 workers predicts alone: bytes do not divide a row group, "
    "rows do: shard_rows=N divides it into shards of N rows",
}


@pytest.mark.parametrize("kind", ["csv.gz", "parquet"])
def test_a_file_that_is_not_split_is_told_with_the_remedy(kind: str) -> None:
    one_file(kind)
    config = {
        "source.path": f"x.{kind}",
        "model": "custom",
        "model._target_": "predictors.doubling",
        "shard_bytes": 100,
    }
    two = {"mode": "processes", "mode.num_workers": 2}
    (note,) = run({**config, **two, "sink.path": "two"}).notes
    assert re.search(TOLD[kind], note)
    assert run({**config, "mode": "inline", "sink.path": "one"}).notes == []  # there is nobody else


def test_a_plan_tells_it_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one_file("csv.gz")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    job = ["source.path=x.csv.gz", "model=custom", "model._target_=predictors.doubling"]
    assert main([*job, "mode=processes", "shard_bytes=100", "sink.path=out", "action=plan"]) == 0
    assert re.search("note: .*" + TOLD["csv.gz"], capsys.readouterr().out)


# ---------------------------------------------------------------- rows inside a shard


class Onlooker(Plain):
    """Notes the rows in flight and those of receipts, in their order, and makes a file when the first rows move."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag, self.noted = flag, [(0, 0)]

    def move(self, rows: int) -> None:
        super().move(rows)
        self.flag.touch()
        self.note()

    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None:
        super().update(in_flight, receipt, failure)
        self.note()

    def note(self) -> None:
        self.noted.append((self._counts.moving, self._counts.committed))

    def shown(self) -> list[int]:
        """Rows in all."""
        return [sum(each) for each in self.noted]


@pytest.fixture
def onlooker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Onlooker:
    there = Onlooker(tmp_path / "seen")
    monkeypatch.setattr("runner.job.progress", lambda: there)
    monkeypatch.setattr("runner.process.pulse.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("runner.modes.moving.EVERY_SECONDS", 0.0)
    return there


def big(folder: Path, **more: object) -> dict[str, object]:
    """A job of one file of 40 rows, in batches of 10."""
    pq.write_table(pa.table({"x": list(range(40))}), folder / "x.parquet")
    return {
        "source.path": "x.parquet",
        "model": "custom",
        "batch_size": 10,
        "sink.path": "out",
        "shard_bytes": None,
        **more,
    }


def test_rows_move_within_a_shard(executor: Runs, onlooker: Onlooker, tmp_path: Path) -> None:
    """The last batch is not predicted before the driver has shown rows of the shard."""
    watched = {"model._target_": "predictors.watched", "model.flag": str(onlooker.flag), "model.last": 39}
    report = executor(big(tmp_path, **watched))
    assert onlooker.noted[1][0] in {10, 20, 30}
    assert max(onlooker.shown()) == report.rows_in == 40
    assert onlooker.noted[-1] == (0, 40)


def test_rows_in_flight_give_way_to_their_receipt(onlooker: Onlooker, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": list(range(40, 60))}), tmp_path / "y.parquet")
    config = big(tmp_path, **{"source.path": ["x.parquet", "y.parquet"], "model._target_": "predictors.doubling"})
    run({**config, "mode": "inline", "shard_bytes": None})
    moves = [(10, 0), (20, 0), (30, 0), (40, 0), (0, 0), (0, 40), (10, 40), (20, 40), (0, 40), (0, 60)]
    assert onlooker.noted == [(0, 0), *moves]


def test_rows_of_a_shard_that_fails_are_taken_back(onlooker: Onlooker, tmp_path: Path) -> None:
    config = big(tmp_path, **{"model._target_": "predictors.failing_on", "model.value": 35})
    with pytest.raises(JobFailed) as failed:
        run({**config, "mode": "inline"})
    assert max(onlooker.shown()) == 30
    assert onlooker.noted[-1] == (0, 0)
    assert failed.value.report.rows_in == 0


def test_who_looks_on_never_breaks_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.process.pulse.EVERY_SECONDS", 0.0)
    counting = Pulse()
    counting.begin(lambda _: 1 / 0)
    counting.add(3)


def test_rows_are_told_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("runner.process.pulse.time.monotonic", lambda: now[0])
    told: list[int] = []
    counting = Pulse()
    counting.begin(told.append)
    for _ in range(35):
        now[0] += 0.1
        counting.add(10)
    assert len(told) == 3


def test_a_call_that_is_lost_takes_its_rows_along() -> None:
    shown: list[int] = []
    moving = Moving(shown.append)
    moving.note(1, 10)
    moving.note(2, 5)
    moving.note(1, 20)
    moving.over(1)
    moving.over(1)
    moving.over(3)
    assert shown == [10, 15, 25, 5]


def test_a_store_that_is_not_there_breaks_nothing() -> None:
    """Without a session Ray's functions raise."""
    rows_in_flight = RowsInFlight("nobody")
    rows_in_flight._next = 0.0
    rows_in_flight.refresh(lambda: {1})
    rows_in_flight.close()


def test_plain_lines_tell_of_rows_in_flight(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Plain()
    shown.move(5)  # before it begins: the first batch
    shown.start(2, 0, None)
    shown.move(10)  # too early
    monkeypatch.setattr("runner.driver.progress.PLAIN_EVERY", 0.0)
    shown.move(1_000)
    assert re.fullmatch(r"predicting 2 shards\n0/2 shards, 1,000 rows, [\d,]+ rows/s\n", capsys.readouterr().err)
