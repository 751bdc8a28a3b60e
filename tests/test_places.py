"""Where input and output lie: a job never predicts its own parts, and parts are written only where they are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_job import job, predicted, write_input

from runner import ConfigError, SinkRefused, run
from runner.storage.locations import absolute, inside, is_local, unfit_for_parts


def inline(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {**job(tmp_path), "mode": "inline", "sink.save_mode": "append", "predict.columns": ["x"], **more}


@pytest.mark.parametrize("way", ["glob", "deep glob", "link to the sink", "link above the source", "link to a part"])
def test_append_never_predicts_its_own_parts(tmp_path: Path, way: str) -> None:
    write_input(tmp_path / "data/day")
    out = tmp_path / "data/out"
    config = {"source.path": f"{tmp_path}/data/*/*.parquet", "sink.path": str(out), "sink.keep_columns": ["x"]}
    if way == "deep glob":
        config["source.path"] = f"{tmp_path}/data/**/*.parquet"
    if way == "link to the sink":
        (tmp_path / "seen").mkdir()
        (tmp_path / "seen/day").symlink_to(tmp_path / "data/day")
        (tmp_path / "seen/out").symlink_to(out)
        config["source.path"] = str(tmp_path / "seen")
        out.mkdir()
    if way == "link above the source":
        (tmp_path / "other").symlink_to(tmp_path / "data")
        config["source.path"] = f"{tmp_path}/other/*/*.parquet"
    run(inline(tmp_path, **config))
    if way == "link to a part":
        (tmp_path / "data/day/link.parquet").symlink_to(next(out.glob("part-*")))
    write_input(tmp_path / "data/day", files=1, first=4)
    for _ in range(2):
        report = run(inline(tmp_path, **config))
    assert report.status == "complete"
    assert predicted(tmp_path / "data") == [2 * x for x in range(125)]
    assert any("below sink.path left out, as output" in note for note in report.notes)


def test_a_sink_below_its_source_is_refused_through_links_too(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    (tmp_path / "seen").symlink_to(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"lies in source\.path="):
        run(inline(tmp_path, **{"sink.path": str(tmp_path / "seen/out")}))


def test_an_input_that_is_all_output_is_refused(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    config = inline(tmp_path, **{"sink.keep_columns": ["x"]})
    run(config)
    with pytest.raises(ConfigError, match=r"all of its 4 files lie below sink\.path="):
        run({**config, "source.path": f"{tmp_path}/out/part-*"})


SAME = ["s3://b/out/x", "s3a://b/out/x", "S3://b/out/x", "s3://anonymous@b/out/x"]


@pytest.mark.parametrize("path", SAME)
def test_places_on_object_stores_are_compared_however_they_are_spelled(path: str) -> None:
    for folder in ("s3://b/out", "s3a://b/out/"):
        assert inside([path, "s3://b/output/x", "s3://c/out/x", "/b/out/x"], folder) == [path]


# ---------------------------------------------------------------- spellings


@pytest.mark.parametrize("prefix", ["", "file://", "file:", "file://localhost", "FILE://", "local://", "File:"])
@given(
    st.lists(st.text("ab %=.é", min_size=1, max_size=4).filter(lambda s: s not in {".", ".."}), min_size=1, max_size=3)
)
def test_a_local_path_means_the_same_in_every_spelling(prefix: str, segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    assert is_local(prefix + path)
    assert absolute(prefix + path) == absolute(path)


WRONG = {
    "": "unset",
    "s3://bucket/a//b": "write s3://bucket/a/b",
    "s3://bucket/a/../b": "write s3://bucket/b",
    "s3://": "names no bucket",
    "s3:///a": "names no bucket",
    "memory://out": "gone when the process ends",
    "simplecache::s3://bucket/out": "a chain of file systems",
    "https://host/out?X-Amz-Signature=x": "can be read, but not written",
}
RIGHT = [
    "out",
    "/out",
    "~/out",
    "a:/b",
    "file:///out",
    "s3://bucket",
    "s3://bucket/a/",
    "S3A://bucket/a b/dt=1",
    "gs://b/c",
    "hdfs:///out",
]


@pytest.mark.parametrize("path", WRONG)
def test_a_place_where_parts_would_be_lost_is_refused_before_anything_runs(tmp_path: Path, path: str) -> None:
    write_input(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"sink\.path=") as refused:
        run(inline(tmp_path, **{"sink.path": path}))
    assert any(WRONG[path] in problem for problem in refused.value.problems)


@pytest.mark.parametrize("path", RIGHT)
def test_a_place_that_parts_are_found_in_is_not(path: str) -> None:
    assert unfit_for_parts(path) is None


def test_another_format_over_our_own_parts_is_named_as_the_difference(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(inline(tmp_path))
    for mode in ("resume", "append", "overwrite"):
        with pytest.raises(SinkRefused, match=r"(?s)these differ:.*sink\.format  there: 'parquet'   now: 'csv'"):
            run(inline(tmp_path, **{"sink": "csv", "sink.save_mode": mode}))
