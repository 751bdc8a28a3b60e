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
from outside import ROWS, write_data, write_ops
from pyarrow import csv
from rich.console import Console

from runner import paint, run
from runner.__main__ import main
from runner.progress import Bar
from runner.types import Failure, Receipt, Stages


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


def test_one_job_has_no_total(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.exists()
    assert main(["source.path=in", "mode=inline", "sink.path=out"]) == 0
    assert total(capsys).startswith("  output ")


# ---------------------------------------------------------------- input that one worker reads alone


def one_file(kind: str) -> None:
    """A file that is one shard."""
    table = pa.table({"x": list(range(500))})
    pq.write_table(table, "x.parquet") if kind == "parquet" else csv.write_csv(table, "x.csv")


TOLD = {
    "csv": r"/x\.csv is one shard \(1\.8 KiB\), which one of 2 workers predicts alone: csv files are not split; "
    "to use more workers, write it as Parquet or as several files",
    "parquet": r"/x\.parquet is one shard .* which one of 2 workers predicts alone: a row group is not split; to use more workers, "
    "write it with smaller ones",
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
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
    assert run({**config, **two, "sink.path": "auto", "shard_bytes": "auto"}).notes == []  # it is small enough
    assert run({**config, "mode": "inline", "sink.path": "one"}).notes == []


def test_a_plan_tells_it_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one_file("csv")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    job = ["source.path=x.csv", "model=custom", "model._target_=predictors.doubling"]
    assert main([*job, "mode=processes", "shard_bytes=100", "sink.path=out", "action=plan"]) == 0
    assert re.search("note: .*" + TOLD["csv"], capsys.readouterr().out)
