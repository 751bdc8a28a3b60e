"""What determines predictions is in the fingerprint: resume over a difference is refused, never silently taken for the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from runner import SinkRefused, run


def numbers(tmp_path: Path, more: Mapping[str, Any] | None = None, source: str = "Numbers") -> dict[str, Any]:
    target = {"source": "custom", "source._target_": f"foreign.numbers.{source}", "shard_bytes": 100}
    model = {"model": "custom", "model._target_": "predictors.doubling", "mode": "inline"}
    return {**target, **model, "sink.path": str(tmp_path / "out"), **(more or {})}


def rows(tmp_path: Path) -> list[int]:
    import pyarrow.parquet as pq

    parts = sorted((tmp_path / "out").glob("part-*"))
    return [value for part in parts for value in pq.read_table(part).column("twice").to_pylist()]


def fields(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out/_runner/recipe.json").read_text())["fields"]
    return found


def test_an_argument_of_a_custom_source_counts(tmp_path: Path) -> None:
    run(numbers(tmp_path))
    with pytest.raises(SinkRefused, match=r"source.scale .*1000\n(.*\n)*.*sink.accept=\[source.scale\]"):
        run(numbers(tmp_path, {"source.scale": 1000}))
    assert run(numbers(tmp_path, {"source.scale": 1, "source.api_key": "${oc.env:HOME}"})).rows_in == 0
    run(numbers(tmp_path, {"source.scale": 1000, "sink.accept": ["source.scale"]}))


def test_a_source_may_tell_itself_what_counts(tmp_path: Path) -> None:
    run(numbers(tmp_path, {"source.scale": 1}, "Settled"))
    run(numbers(tmp_path, {"source.scale": 3}, "Settled"))
    assert fields(tmp_path)["source.code"] == "1"
    with pytest.raises(SinkRefused, match=r"source.kind"):
        run(numbers(tmp_path, {"source.scale": 2}, "Settled"))


def test_pieces_without_row_groups_are_shards_of_their_own(tmp_path: Path) -> None:
    assert run(numbers(tmp_path)).rows_out == 40
    expected = [2 * x for x in range(40)]
    assert rows(tmp_path) == expected
    parts = sorted((tmp_path / "out").glob("part-*"))
    for part in (tmp_path / "out/_SUCCESS", *parts[1:3]):  # as after a kill
        part.unlink()
    assert run(numbers(tmp_path)).rows_in == 20
    assert rows(tmp_path) == expected


def test_neighbours_without_row_groups_share_a_shard(tmp_path: Path) -> None:
    assert run(numbers(tmp_path, {"shard_bytes": None})).rows_out == 40
    assert rows(tmp_path) == [2 * x for x in range(40)]


def test_pieces_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    from runner import ConfigError

    with pytest.raises(ConfigError, match=r"source: gives two fragments of numbers .*another first_row"):
        run(numbers(tmp_path, {"source.apart": False}))


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "in").mkdir()
    for i in range(2):
        pa.csv.write_csv(pa.table({"x": [i, i], "y": [i, i]}), tmp_path / f"in/{i}.csv")
    model = {"model": "custom", "model._target_": "predictors.doubling", "mode": "inline", "shard_bytes": None}
    source = {"source": "csv", "source.path": str(tmp_path / "in"), "predict.columns": ["x"]}
    return {**model, **source, "sink.path": str(tmp_path / "out")}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source.column_types", {"x": "double"}),
        ("source.columns", ["x"]),
        ("source.filters", [["x", ">", 0]]),
        ("source.partitioning", None),
        ("source.delimiter", ";"),
    ],
)
def test_an_option_of_files_that_decides_values_counts(
    key: str, value: Any, texts: dict[str, Any], tmp_path: Path
) -> None:
    run(texts)
    next((tmp_path / "out").glob("part-*1-*")).unlink()
    with pytest.raises(SinkRefused, match=rf"sink.accept=\[{key}\]"):
        run({**texts, key: value})
    given = {**texts, key: value, "sink.accept": [key]} if key != "source.delimiter" else texts
    assert run(given).rows_out <= 2


def test_where_files_lie_and_how_they_are_reached_does_not_count(texts: dict[str, Any], tmp_path: Path) -> None:
    run(texts)
    again = {"source": "auto", "source.path": str(tmp_path / "in/*.csv"), "source.allow_empty": True}
    assert run({**texts, **again, "source.storage_options": {"auto_mkdir": False}}).rows_in == 0


def test_defaults_are_recorded_as_they_always_were(texts: dict[str, Any], tmp_path: Path) -> None:
    run(texts)
    assert [name for name in fields(tmp_path) if name.startswith("source.")] == ["source.filters"]


# ---------------------------------------------------------------- code, and values that it uses


@pytest.fixture
def churn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A job whose loader imports a helper."""
    pa.parquet.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "in.parquet")
    (tmp_path / "churnful.py").write_text("import helpful\ndef load():\n    return lambda b: helpful.times(b['x'])\n")
    (tmp_path / "helpful.py").write_text('"""Doc."""\ndef times(x):\n    return x * 2\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("churnful", "helpful"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    source = {"source": "parquet", "source.path": str(tmp_path / "in.parquet"), "mode": "inline"}
    return {**source, "model": "custom", "model._target_": "churnful.load", "sink.path": str(tmp_path / "out")}


def edit(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def test_a_helper_that_was_edited_is_refused_by_name(churn: dict[str, Any], tmp_path: Path) -> None:
    run(churn)
    edit(tmp_path / "helpful.py", '"""Doc."""', '"""Other words."""  # and a comment')
    assert run(churn).rows_in == 0
    edit(tmp_path / "helpful.py", "x * 2", "x * 3")
    with pytest.raises(SinkRefused) as refused:
        run(churn)
    lines = str(refused.value).splitlines()
    assert lines[1:] == [
        "  model.code helpful  has changed",
        "give another sink.path,",
        "or sink.save_mode=overwrite to replace it,",
        "or sink.accept=[model.code] to go on as if they were the same",
        "(predict.version=<name>, given from the first run on, stands for the code)",
    ]
    run({**churn, "sink.accept": ["model.code"]})


def test_a_version_stands_for_the_code(churn: dict[str, Any], tmp_path: Path) -> None:
    run({**churn, "predict.version": "7"})
    edit(tmp_path / "helpful.py", "x * 2", "x * 3")
    assert run({**churn, "predict.version": "7"}).rows_in == 0
    with pytest.raises(SinkRefused, match=r"predict.version"):
        run({**churn, "predict.version": "8"})


def test_a_recipe_of_an_earlier_version_says_so(churn: dict[str, Any], tmp_path: Path) -> None:
    run(churn)
    recipe = tmp_path / "out/_runner/recipe.json"
    content = json.loads(recipe.read_text())
    content["fields"]["model.code"] = "sha256:0123"
    recipe.write_text(json.dumps(content))
    with pytest.raises(SinkRefused, match="earlier version, which compared the text"):
        run(churn)
    assert run({**churn, "sink.accept": ["model.code"]}).rows_in == 0


def test_a_global_of_a_function_counts(churn: dict[str, Any]) -> None:
    import numpy as np

    notebook: dict[str, Any] = {"__name__": "__main__", "np": np, "weights": np.array([2.0]), "calls": []}
    exec("def predict(batch):\n    calls.append(1)\n    return batch['x'] * weights[0]\n", notebook)
    job = {name: value for name, value in churn.items() if not name.startswith("model")}
    run(job, model=notebook["predict"])
    assert notebook["calls"]
    assert run(job, model=notebook["predict"]).rows_in == 0
    notebook["weights"][0] = 3.0
    with pytest.raises(SinkRefused, match=r"model.code __main__.weights  has changed"):
        run(job, model=notebook["predict"])


def test_an_accepted_difference_is_recorded_when_a_complete_output_grows(churn: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    growing = {**churn, "source.path": str(tmp_path / "in"), "sink.save_mode": "append"}
    for day in range(3):
        pa.parquet.write_table(pa.table({"x": [day]}), tmp_path / f"in/{day}.parquet")
        accept = {"sink.accept": ["batch_size"]} if day == 1 else {}
        assert run({**growing, "batch_size": 10 if day == 0 else 7, **accept}).rows_out == 1
    assert fields(tmp_path)["batch_size"] == 7
