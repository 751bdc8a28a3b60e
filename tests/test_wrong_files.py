"""Whatever is wrong with a file is told by its name, in one line that helps; nothing of it counts as predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Runs
from outside import runner, without_privileges
from test_config import told
from wrong_files import BLOCKS, CSV, NUMBERS, TABLE, WRONG, Case, Content, damaged, make, parquet

from runner import ConfigError, JobFailed, run
from runner.__main__ import main


def command(argv: tuple[str, ...]) -> list[str]:
    """A job that doubles `x`, but for what a case says otherwise."""
    usual = {
        "model=": "custom",
        "model._target_=": "predictors.doubling",
        "source.path=": "in",
        "predict.columns=": "[x]",
        "sink.path=": "out",
        "mode=": "inline",
    }
    if any(each.startswith("model=") for each in argv):
        del usual["model._target_="]
    return [*(key + value for key, value in usual.items() if not any(each.startswith(key) for each in argv)), *argv]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_file(wrong: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, wrong.files)
    assert main(command(wrong.argv)) == wrong.code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert told(err[err.index("error: ") :]) == [line.replace("HERE", str(tmp_path)) for line in wrong.told]
    assert not (tmp_path / "out/_SUCCESS").exists()


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({wrong.name for wrong in WRONG}) == len(WRONG) >= 40


CHECKED = parquet(NUMBERS, write_page_checksum=True, compression="none", use_dictionary=False)
READ_BY_WORKERS: dict[str, tuple[str, dict[str, Content], str]] = {
    "quote": (
        "csv",
        {"in/a.csv": CSV + '3,"c\n'},
        r"a\.csv cannot be read: line 4: a quote is opened that nothing closes",
    ),
    "checksum": ("parquet", {"in/a.parquet": damaged(CHECKED, 400, b"????")}, r"a\.parquet cannot be read: .*checksum"),
    "rows": ("csv", {"in/a.csv": BLOCKS + "1,b,c\n"}, r"a\.csv cannot be read: line 10002: Expected 2 columns"),
}


@pytest.mark.parametrize("wrong", READ_BY_WORKERS)
def test_what_only_a_worker_sees_is_told_alike_in_every_mode(executor: Runs, wrong: str, tmp_path: Path) -> None:
    kind, files, message = READ_BY_WORKERS[wrong]
    make(tmp_path, files)
    with pytest.raises(JobFailed, match=message):
        executor(job(tmp_path, kind, shard_bytes=None))
    assert not list((tmp_path / "out").glob("part-*"))


def job(tmp_path: Path, kind: str, **more: object) -> dict[str, object]:
    return {
        "source": kind,
        "source.path": str(tmp_path / "in"),
        "model": "custom",
        "model._target_": "predictors.doubling",
        "predict.columns": ["x"],
        "sink.path": str(tmp_path / "out"),
        **more,
    }


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"in/a.parquet": parquet(TABLE)})
    (tmp_path / "in/a.parquet").chmod(0)
    argv = ["source=parquet", "source.path=in", "mode=inline", "sink.path=out"]
    done = runner(argv, tmp_path, before=without_privileges())
    assert done.returncode == 2
    (line,) = told(done.stderr)
    assert line.startswith(f"source.path: {tmp_path}/in/a.parquet cannot be read as parquet: ")
    assert "Permission denied" in line


def test_what_no_column_of_the_job_holds_does_not_matter(tmp_path: Path) -> None:
    """Text in another encoding, where only numbers are read."""
    make(tmp_path, {"in/a.csv": "x,id\n1,é\n".encode("latin-1"), "in/b.csv": CSV})
    report = run({**job(tmp_path, "csv"), "mode": "inline"})
    assert report.rows_out == 3


def test_an_empty_file_among_others_is_said(tmp_path: Path) -> None:
    make(tmp_path, {"in/a.csv": CSV, "in/b.csv": ""})
    report = run({**job(tmp_path, "csv"), "mode": "inline"})
    assert report.rows_out == 2
    assert report.notes == [f"1 input file of 0 bytes, taken as without rows: {tmp_path}/in/b.csv"]


def test_a_partition_of_another_type_cannot_be_appended(tmp_path: Path) -> None:
    config = {**job(tmp_path, "csv"), "mode": "inline", "sink.save_mode": "append", "sink.keep_columns": ["k"]}
    make(tmp_path, {"in/k=1/a.csv": CSV})
    run(config)
    make(tmp_path, {"in/k=new/a.csv": CSV})
    with pytest.raises(ConfigError, match="'k' is int64 in the recorded plan, string in the new files"):
        run(config)


def test_a_file_that_is_left_out_by_name_fails_nothing(tmp_path: Path) -> None:
    """The remedy that is told works."""
    make(tmp_path, {"in/a.csv": CSV, "in/b.csv": CSV + "3,c,d\n"})
    with pytest.raises(ConfigError, match=r"errors\.skip_files=\[b\.csv\]"):
        run({**job(tmp_path, "csv"), "mode": "inline"})
    assert run({**job(tmp_path, "csv"), "mode": "inline", "errors.skip_files": ["b.csv"]}).rows_out == 2
