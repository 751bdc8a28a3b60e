"""From a database to a database: in every mode, with the machine's own promises, and every night as the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Runs
from databases import Fresh
from sinks.test_foreign_sink import typed
from test_docs import ROOT, run_step, steps

from runner import JobFailed, run
from runner.__main__ import main

ROWS = 100
DOUBLED = [2 * x for x in range(ROWS)]


@pytest.fixture(autouse=True)
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("database", "postgresql"):
        if name in request.fixturenames:
            monkeypatch.setenv("WAREHOUSE", request.getfixturevalue(name).uri)


def job(**more: Any) -> dict[str, Any]:
    uri = "${oc.env:WAREHOUSE}"
    source = {"source": "sql", "source.uri": uri, "source.table": "rides", "source.fragment_rows": 20}
    sink = {"sink": "sql", "sink.uri": uri, "sink.table": "predictions", "sink.keep_columns": ["id"]}
    model = {"model": "custom", "model._target_": "predictors.doubling", "predict.columns": ["x"]}
    return {**source, **model, **sink, "shard_bytes": 500, "batch_size": 10, **more}


def fill(database: Fresh) -> None:
    database.run("CREATE TABLE rides (id bigint PRIMARY KEY, x bigint)")
    database.load("rides", {"id": [3 * x for x in range(ROWS)], "x": list(range(ROWS))})


def predicted(database: Fresh) -> list[int]:
    return [row["twice"] for row in database.rows("SELECT twice FROM predictions ORDER BY id")]


def test_a_table_becomes_a_table(executor: Runs, postgresql: Fresh) -> None:
    fill(postgresql)
    report = executor(job())
    assert predicted(postgresql) == DOUBLED
    assert report.committed > 1
    assert executor(job()).committed == 0
    assert main([*typed(job(mode="inline")), "action=verify", "verify.deep=true"]) == 0


def test_it_is_resumed_and_bad_rows_are_put_aside(database: Fresh) -> None:
    fill(database)
    failing = {"model._target_": "predictors.poisoned", "model.values": [70], "mode": "inline"}
    with pytest.raises(JobFailed, match="70"):
        run(job(**failing))
    aside = job(**failing, **{"errors": "quarantine", "errors.max_bad_rows": 5})
    assert run(aside).rows_quarantined == 1
    assert predicted(database) == [x for x in DOUBLED if x != 140]
    assert main([*typed(aside), "action=verify"]) == 0


@pytest.mark.slow
def test_every_night_as_the_page_says(postgresql: Fresh, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "nightly.md").read_text()
    folder = shutil.copytree(ROOT / "docs" / "nightly", tmp_path / "nightly")
    assert (folder / "conf/job/nightly.yaml").read_text() in page
    statements = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    postgresql.run(*(each for each in statements.split(";\n") if each))
    for step in steps("nightly.md"):
        told = run_step(step, folder)
        assert postgresql.uri not in told
    assert postgresql.rows("SELECT count(*) AS n, count(DISTINCT id) AS ids, max(score) AS best FROM order_scores") == [
        {"n": 1_000, "ids": 1_000, "best": 0.98}
    ]
