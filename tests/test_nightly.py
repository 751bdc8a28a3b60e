"""A job that runs every night: what is green must have been predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outside import ROWS, predictions, write_data

from runner import ConfigError, run
from runner.__main__ import main
from runner.modes import session
from runner.types import RayOptions

JOB = {"source.path": "in", "sink.path": "out", "mode": "inline"}


def model(batch: Any) -> Any:
    return batch["a"]


def test_new_input_is_a_note_or_an_error(tmp_path: Path) -> None:
    write_data(tmp_path / "in/dt=2026-11-20")
    run(JOB, model=model)
    write_data(tmp_path / "in/dt=2026-11-21")
    assert any("NOT predicted" in note for note in run(JOB, model=model).notes)
    with pytest.raises(ConfigError, match=r"errors\.on_new_input=fail: 1 input file in no recorded plan.*append"):
        run({**JOB, "errors.on_new_input": "fail"}, model=model)
    run({**JOB, "errors.on_new_input": "fail", "sink.save_mode": "append"}, model=model)
    assert len(predictions(Path("out"))) == 2 * ROWS
    run({**JOB, "errors.on_new_input": "fail"}, model=model)


@pytest.mark.parametrize("day", ["2026-02-30", "2026-13-01", "2026-00-10"])
@pytest.mark.parametrize("key", ["source.path", "sink.path"])
def test_a_day_that_is_in_no_calendar(key: str, day: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "in/dt=2026-02-28")
    argv = ["mode=inline", "source.path=in", "source.allow_empty=true", "sink.path=out", f"{key}=in/dt=${{vars.date}}/"]
    assert main([*argv, f"vars.date={day}"]) == 2
    assert f"{day} is no day of the calendar" in capsys.readouterr().err


def test_a_day_without_input_is_green_but_a_wrong_place_is_not(tmp_path: Path) -> None:
    write_data(tmp_path / "in/dt=2026-02-28")
    empty = {**JOB, "source.allow_empty": True}
    for path in ("in/dt=2026-03-01/", "in/dt=2026-03-01/*.parquet", "in/*.none"):
        report = run({**empty, "source.path": path, "source.format": "parquet"}, model=model)
        assert (report.rows_out, report.notes) == (0, [f"no file matches source.path={path}"])
    for path in ("inn/dt=2026-03-01/", "inn/dt=2026-03-01/*.parquet"):
        with pytest.raises(ConfigError, match="not even the folder above it is there"):
            run({**empty, "source.path": path, "source.format": "parquet"}, model=model)


def test_a_sink_in_rays_own_copy_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "session_2026/runtime_resources/working_dir_files/_ray_pkg_1"
    write_data(place / "in")
    monkeypatch.chdir(place)
    with pytest.raises(ConfigError, match=r"sink\.path=out: is relative, .* is a copy that Ray deletes; give a URI"):
        run(JOB, model=model)
    run({**JOB, "sink.path": str(tmp_path / "out")}, model=model)


@pytest.mark.parametrize(
    ("mode", "told"), [("", "set RAY_AUTH_MODE=token"), ("token", "is the token that of the cluster")]
)
def test_a_cluster_that_cannot_be_joined_may_want_a_token(
    mode: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from runner.errors import Incomplete

    def refuse(**_: Any) -> None:
        raise ConnectionError("GCS has refused")

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(Incomplete, match=told):
        session.connect(RayOptions(address="auto"), print)
