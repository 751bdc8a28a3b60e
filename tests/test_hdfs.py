"""Jobs on a real HDFS, as source and as sink. Skipped unless `HDFS_JARS` names Hadoop's jars: `tests/hdfs.py` says how to get them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from hdfs import Hdfs
from sources.test_source_seam import typed
from test_job import job
from test_kill import finished, kill_driver, start

from runner import ConfigError, run
from runner.__main__ import main
from runner.sinks.files import Files as FilesSink
from runner.sources.files import Files
from runner.storage.folder import Folder
from runner.storage.locations import locate
from runner.testing import check_sink, check_source


@pytest.fixture
def root(ray_session: None, hdfs: Hdfs) -> str:  # noqa: ARG001
    """A folder of the test's own. Ray starts before the client of HDFS: a fork of this process may hang once that has threads."""
    return f"{hdfs.uri}/tests/{uuid4().hex}"


def write_input(root: str, files: int = 4, rows: int = 25, first: int = 0) -> None:
    fs, path = locate(f"{root}/in")
    fs.makedirs(path, exist_ok=True)
    for i in range(first, first + files):
        x = list(range(i * rows, (i + 1) * rows))
        with fs.open(f"{path}/{i:03}.parquet", "wb") as file:
            pq.write_table(pa.table({"x": x, "id": [f"row {v}" for v in x]}), file, row_group_size=10)


def hdfs_job(root: str, loader: str = "doubling", /, **more: Any) -> dict[str, Any]:
    return {**job(Path(), loader), "source.path": f"{root}/in", "sink.path": f"{root}/out", **more}


def predicted(root: str) -> list[Any]:
    fs, path = locate(f"{root}/out")
    parts = sorted(each for each in fs.ls(path, detail=False) if "/part-" in each)
    return [value for part in parts for value in pq.read_table(pa.BufferReader(fs.cat_file(part)))["twice"].to_pylist()]


def test_files_keep_the_promises_of_a_source_and_a_sink(root: str) -> None:
    write_input(root)
    check_source(Files(f"{root}/in", "parquet"))
    check_sink(lambda: FilesSink("parquet", f"{root}/checked"))


def test_rows_are_predicted_in_every_mode(executor: Runs, root: str) -> None:
    write_input(root)
    more = {"errors": "quarantine", "errors.max_bad_rows": 5, "model.values": [3, 77], "sink.keep_columns": ["id"]}
    report = executor(hdfs_job(root, "poisoned", **more))
    assert (report.rows_out, report.rows_quarantined) == (98, 2)
    assert predicted(root) == [2 * x for x in range(100) if x not in (3, 77)]
    assert main([*typed(hdfs_job(root, "poisoned", **more)), "action=verify", "verify.deep=true"]) == 0


def test_a_growing_folder_is_appended_and_overwritten(root: str) -> None:
    write_input(root, 2)
    run(hdfs_job(root, mode="inline"))
    write_input(root, 2, first=2)
    report = run(hdfs_job(root, mode="inline", **{"sink.save_mode": "append"}))
    assert (report.rows_out, predicted(root)) == (50, [2 * x for x in range(100)])
    run(hdfs_job(root, mode="inline", **{"sink.save_mode": "overwrite", "model.factor": 3}))
    assert predicted(root) == [3 * x for x in range(100)]
    write_input(root, 1)
    with pytest.raises(ConfigError, match=r"000.parquet changed since it was planned"):
        run(hdfs_job(root, mode="inline", **{"model.factor": 3, "sink.save_mode": "append"}))


@pytest.mark.parametrize("source", ["csv", "jsonl", "text", "binary"])
def test_other_formats_are_read(root: str, source: str) -> None:
    fs, path = locate(f"{root}/in")
    fs.makedirs(path, exist_ok=True)
    lines = {"csv": ["x", *map(str, range(9_000))], "jsonl": [f'{{"x": {i}}}' for i in range(9_000)]}
    with fs.open(f"{path}/a.{source}", "wb") as file:
        file.write("\n".join(lines.get(source, ["some", "text"])).encode())
    check_source(Files(f"{root}/in", source))  # type: ignore[arg-type]


def test_what_access_is_refused_to_is_told(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(root, 1)
    fs, path = locate(root)
    fs.client.set_permission(path, 0o700)
    monkeypatch.setenv("HADOOP_USER_NAME", "somebody")
    other = {"source.storage_options": {"as": "somebody"}, "sink.path": "out"}
    with pytest.raises(ConfigError, match=r"Permission denied: user=somebody"):
        run(hdfs_job(root, mode="inline", **other))
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"source.path=.*/nowhere: no files match"):
        run(hdfs_job(root, mode="inline", **{"source.path": f"{root}/nowhere"}))


@pytest.mark.slow
def test_sigkill_of_the_driver_loses_and_doubles_nothing(tmp_path: Path, root: str) -> None:
    write_input(root, 12)
    given = typed(hdfs_job(root, "slow", **{"model.seconds": 0.1}))
    for committed in (1, 4):
        running = start(tmp_path, "processes", *given)
        _wait_for(root, committed)
        kill_driver(running)
    assert "were there before" in finished(start(tmp_path, "processes", *given))
    assert predicted(root) == [2 * x for x in range(300)]
    assert main([*given, "action=verify"]) == 0


def _wait_for(root: str, parts: int) -> None:
    """Wait until so many parts are committed."""
    folder = Folder(f"{root}/out")
    for _ in range(600):
        if sum(name.startswith("part-") for name in folder.names()) >= parts:
            return
        time.sleep(0.1)
    raise AssertionError("no part in a minute")
