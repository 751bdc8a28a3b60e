"""The command line: sweeps, another repository's configs, working directories, exit codes."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from outside import ROWS, predictions, runner, without_privileges, write_data, write_ops

from runner.__main__ import main
from runner.config.overrides import readable, unreadable

DATA = ("source.path=in", "mode=inline")
EXPECTED = [5.0 * i for i in range(ROWS)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("source.path=s3://b/dt=1/*", "s3://b/dt=1/*"),
        ("source.path=s3://b/[0-9]*.parquet", "s3://b/[0-9]*.parquet"),
        ("source.path=a b(1)#~&!;.parquet", "a b(1)#~&!;.parquet"),
        ("source.path=in/x.parquet", "in/x.parquet"),
        ("batch_size=3", 3),
        ("source.path=[a,b]", ["a", "b"]),
        ("source.path=out/dt=${vars.date}", "out/dt=${vars.date}"),
    ],
)
def test_readable(typed: str, read: Any) -> None:
    assert parsed(readable(typed)) == read


def parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


values = st.text(alphabet="ab1=/*[](){}#~&!;:, '\"\\$.-", max_size=12) | st.text(max_size=8)


@given(values)
def test_quoting_keeps_what_was_typed(value: str) -> None:
    """What parses is left alone; what is quoted means exactly the text that was typed."""
    typed = f"source.path={value}"
    mended = readable(typed)
    if parses(typed):
        assert mended == typed
    elif mended != typed:
        assert parsed(mended) == value


@given(values)
def test_a_remedy_works_when_it_is_copied(value: str) -> None:
    typed = f"source.path={value}"
    if not parses(readable(typed)) and "quote it: " in (told := unreadable(typed)):
        (override,) = shlex.split(told.rpartition("quote it: ")[2])
        assert parses(override)


# ---------------------------------------------------------------- sweeps


def test_a_sweep_runs_all_jobs(place: Path) -> None:
    assert main([*DATA, "-m", "batch_size=5,6", "sink.path=out/${hydra:job.num}"]) == 0
    assert len(predictions(place / "out/0")) == len(predictions(place / "out/1")) == ROWS


def test_a_bad_job_stops_all_before_one_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DATA, "-m", "batch_size=5,0,6", "sink.path=out/${hydra:job.num}"]) == 2
    assert capsys.readouterr().err == (
        "error: batch_size=0: expected a whole number >= 1 "
        "(job 1 of the sweep, source.path=in mode=inline batch_size=0 sink.path=out/${hydra:job.num})\n"
    )
    assert not (place / "out").exists()
    assert not (place / "outputs").exists()


def test_data_is_looked_at_before_one_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mode=inline", "-m", "source.path=in,nope", "sink.path=out/${hydra:job.num}"]) == 2
    assert "source.path=nope: no files match" in capsys.readouterr().err
    assert not (place / "out").exists()


def test_a_problem_of_all_jobs_is_told_once(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert place.exists()
    assert main([*DATA, "batchsize=3", "-m", "batch_size=5,6", "num_actors=two", "sink.path=out/${hydra:job.num}"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: batchsize: no such key (did you mean batch_size?); variables of your own go below vars",
        "       num_actors=two: expected a whole number >= 1 or auto",
    ]


def test_two_jobs_with_one_sink_are_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DATA, "-m", "batch_size=5,6", "sink.path=out"]) == 2
    assert capsys.readouterr().err == (
        f"error: sink.path={place}/out: jobs 0, 1 of the sweep all write there; make it differ, e.g. sink.path='out/${{hydra:job.num}}'\n"
    )


def test_num_actors_without_effect_is_a_note_in_a_sweep(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    assert place.exists()
    assert main([*DATA, "-m", "num_actors=2,3", "action=plan"]) == 0
    assert "note: num_actors=2: no effect with mode=inline" in capsys.readouterr().err


def test_a_sweep_goes_on_and_ends_with_the_worst_code(place: Path) -> None:
    """One job fails, the next one runs: 1. A refused sink is worse: 2."""
    (place / "in/x.parquet").unlink()
    write_data(place / "in")
    argv = [*DATA, "-m", "model._target_=ops.loaders.load", "model.alpha=2", "sink.path=out/${predict.columns[0]}"]
    done = runner([*argv, "predict.columns=[b],[a]"], place)
    assert done.returncode == 1, done.stderr
    assert (place / "out/a/_SUCCESS").exists()
    (place / "out/a/foreign.txt").write_text("not ours")
    shutil.rmtree(place / "out/a/_runner")
    assert runner([*argv, "predict.columns=[b],[a]"], place).returncode == 2


def test_a_sweep_of_the_config_itself(place: Path) -> None:
    (place / "conf/many.yaml").write_text(
        "defaults: [config, override mode: inline, _self_]\nsource: {path: in}\nsink: {path: 'out/${hydra:job.num}'}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {batch_size: '5,6'}}}\n"
    )
    assert main(["--config-dir=conf", "--config-name=many"]) == 0
    assert (place / "out/1/_SUCCESS").exists()
    assert main(["--config-dir=conf", "--config-name=many", "num_actors=two"]) == 2


def test_a_choice_that_must_be_made_is_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf/site").mkdir()
    (place / "conf/site/one.yaml").write_text("# @package vars\nsize: 5\n")
    (place / "conf/must.yaml").write_text(
        "defaults: [config, site: '???', override mode: inline, _self_]\nsource: {path: in}\nsink: {path: out}\n"
    )
    argv = ["--config-dir=conf", "--config-name=must"]
    assert main(argv) == 2
    assert "site" in capsys.readouterr().err
    assert not (place / "out").exists()


# ---------------------------------------------------------------- another repository


@pytest.mark.parametrize(
    "mode", ["inline", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("tasks", "actors"))]
)
def test_another_repository(mode: str, place: Path) -> None:
    argv = ["--config-dir", "conf", "job=daily", f"mode={mode}", "vars.date=2026-11-21"]
    done = runner(argv, place)
    assert done.returncode == 0, done.stderr
    assert predictions(place / "out/dt=2026-11-21") == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("load_on", ["driver", "worker"])
def test_another_repositorys_model_is_found_by_workers(load_on: str, place: Path) -> None:
    argv = [
        "--config-dir=conf",
        "+job=[daily,eager]",
        "mode=tasks",
        "vars.date=2026-11-22",
        f"predict.load_on={load_on}",
    ]
    assert runner(argv, place).returncode == 0
    assert predictions(place / "out/dt=2026-11-22") == EXPECTED


def test_a_primary_config_of_ones_own(place: Path) -> None:
    done = runner(["--config-dir", "conf", "--config-name", "night"], place)
    assert done.returncode == 0, done.stderr
    assert predictions(place / "out") == EXPECTED * 2


def test_a_preset_says_what_it_needs(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(place))
    assert main(["--config-dir", "conf", "job=daily", "mode=inline"]) == 2
    assert "error: vars.date: is required; give vars.date=<text>\n" in capsys.readouterr().err


# ---------------------------------------------------------------- working directories


def test_chdir_is_harmless(place: Path) -> None:
    done = runner([*DATA, "hydra.job.chdir=true", "sink.path=out"], place)
    assert done.returncode == 0, done.stderr
    assert len(predictions(place / "out")) == ROWS


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that anybody may read and nobody but root may write."""
    folder = Path(tempfile.mkdtemp())
    write_data(folder / "in")
    for each in (folder, folder / "in"):
        each.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    (folder / "in").chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_working_directory(read_only: Path) -> None:
    out = Path(tempfile.mkdtemp())
    command = [*without_privileges(), sys.executable, "-m", "runner", *DATA, f"sink.path={out}/predictions"]
    done = subprocess.run(command, cwd=read_only, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(predictions(out / "predictions")) == ROWS
    assert [path.name for path in read_only.iterdir()] == ["in"]
    shutil.rmtree(out)


def test_without_a_sink_the_closing_line_resumes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DATA, "model._target_=ops.loaders.load", "model.alpha=x"]) == 2
    assert not (place / "outputs").exists()
    assert main([*DATA]) == 0
    (sink,) = (place / "outputs").glob("*/*/predictions")
    assert f"output   {sink}" in capsys.readouterr().out
    assert (sink.parent / "config.yaml").exists()


# ---------------------------------------------------------------- questions to Hydra


@pytest.mark.parametrize("argv", [[*DATA, "--cfg", "job"], [*DATA, "--info", "searchpath"], ["--hydra-help"]])
def test_hydras_own_questions(argv: list[str], place: Path) -> None:
    done = runner(argv, place)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not (place / "outputs").exists()


def test_the_callers_surroundings_stay(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, environment = sys.argv, dict(os.environ)
    assert main([*DATA, "sink.path=out", "hydra.job.chdir=true"]) == 0
    assert "complete: 1 shard" in capsys.readouterr().out
    assert (sys.argv, dict(os.environ), Path.cwd()) == (arguments, environment, place)


def test_an_interrupt_before_the_job_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from runner import cli

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    assert place.exists()
    monkeypatch.setattr(cli, "prepare", interrupt)
    assert main([*DATA]) == 130
    assert capsys.readouterr().err == "interrupted before anything was predicted\n"


@pytest.mark.parametrize("action", ["plan", "run"])
def test_a_reader_that_leaves_changes_nothing(place: Path, action: str) -> None:
    """`python -m runner ... | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "runner", *DATA, "sink.path=out", f"action={action}"]
    done = subprocess.run(command, cwd=place, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert "Error" not in done.stderr
