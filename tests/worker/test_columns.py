"""A model's columns against the data's: the difference is the model's, told once, and mended by a rename."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs

from runner import ConfigError, JobFailed, run
from runner.__main__ import main
from runner.worker.columns import compared

QUARANTINE = {"errors": "quarantine", "errors.max_bad_rows": 1.0}
JOB = {"source.path": "in", "sink.path": "out", "mode": "inline"}


@pytest.fixture(autouse=True)
def _data() -> None:
    Path("in").mkdir()
    pq.write_table(pa.table({"age (years)": [1.0, 2.0, 3.0], "plan": ["a", "b", "c"], "x": [1, 2, 3]}), "in/a.parquet")


def wants_age(batch: Any) -> Any:
    return batch["age__years_"] * 2


def by_attribute(batch: Any) -> Any:
    return batch.nope


def by_list(batch: Any) -> Any:
    return batch[["x", "nope"]].sum(axis=1)


def from_a_mapping(batch: Any) -> Any:
    return [{"a": 1}[plan] for plan in batch["plan"]]


@pytest.mark.parametrize("kind", ["pandas", "numpy", "arrow"])
@pytest.mark.parametrize("errors", [{}, QUARANTINE], ids=["strict", "quarantine"])
def test_a_column_that_is_not_there_is_the_models_fault(kind: str, errors: dict[str, Any]) -> None:
    with pytest.raises(JobFailed) as failed:
        run({**JOB, **errors, "predict.input": kind, "predict.columns": ["age (years)", "x"]}, model=wants_age)
    told = str(failed.value)
    assert told.startswith("the model's columns are not those of the data\n  missing  'age__years_'\n  extra    ")
    assert " row 0" not in told
    assert "'age (years)': 'age__years_'" in told
    ours = [line for line in told.splitlines() if not line.startswith(("  at ", "  in ", "  caused by "))]
    assert max(map(len, ours)) <= 80
    assert not list(Path("out").rglob("part-*"))


@pytest.mark.parametrize("model", [by_attribute, by_list])
def test_however_it_is_asked_for(model: Any) -> None:
    with pytest.raises(JobFailed, match=r"the model's columns are not those of the data"):
        run({**JOB, **QUARANTINE}, model=model)


def test_a_value_that_is_not_known_is_its_rows_fault(executor: Runs) -> None:
    report = executor({"source.path": "in", "sink.path": "out", **QUARANTINE}, model=from_a_mapping)
    assert (report.rows_out, report.rows_quarantined) == (1, 2)


RENAME = {"predict.columns": ["age (years)"], "predict.rename": {"age (years)": "age__years_"}}


def test_a_renamed_column_reaches_the_model(executor: Runs) -> None:
    config = {"source.path": "in", "sink.path": "out", **RENAME, "sink.keep_columns": ["age (years)"]}
    executor(config, model=wants_age)
    (part,) = Path("out").glob("part-*")
    assert pq.read_table(part).to_pydict() == {"age (years)": [1.0, 2.0, 3.0], "age__years_": [2.0, 4.0, 6.0]}


def test_a_rename_is_in_the_fingerprint_and_none_is_not() -> None:
    def fields(config: dict[str, Any]) -> dict[str, Any]:
        run({**JOB, **config}, model=lambda batch: batch.iloc[:, 0] * 2)
        found: dict[str, Any] = json.loads(Path(config["sink.path"], "_runner/recipe.json").read_bytes())["fields"]
        return found

    assert fields({**RENAME, "sink.path": "one"})["predict.rename"] == RENAME["predict.rename"]
    assert "predict.rename" not in fields({"sink.path": "two"})
    assert "predict.rename" not in fields({"sink.path": "three", "predict.rename": {}})


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"predict.rename": {"age": "y"}}, "predict.rename: there is no column 'age' in"),
        ({"predict.columns": ["x"], "predict.rename": {"y": "z"}}, r"predict.rename.y: is not among predict.columns"),
        ({"predict.rename": {"x": "y", "plan": "y"}}, "predict.rename: several columns would become 'y'"),
        ({"predict.rename": {"x": "plan"}}, "predict.rename: 'x' would become 'plan', which is another column"),
    ],
    ids=["unknown", "not read", "twice", "clash"],
)
def test_a_wrong_rename_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run({**JOB, **config}, model=len)


def test_two_columns_may_swap_their_names() -> None:
    run({**JOB, "predict.rename": {"x": "age (years)", "age (years)": "x"}}, model=lambda batch: {"p": batch["x"]})
    (part,) = Path("out").glob("part-*")
    assert pq.read_table(part)["p"].to_pylist() == [1.0, 2.0, 3.0]


def test_a_wrong_delimiter_is_said() -> None:
    assert "give source.delimiter=';'" in compared(["a", "b"], ["a;b"])


def test_many_columns_are_told_shortly() -> None:
    told = compared([f"wanted_{i}" for i in range(500)], [f"there_is_{i}" for i in range(500)])
    assert len(told.splitlines()) < 30


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "onnx", "mlflow"])
def test_a_model_that_is_only_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"model={name}", "source.path=in", "mode=inline"]) == 2
    assert f"model={name}: no such option; it is not built in yet; a loader of your own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("models/churn.py", "is code, not a fitted model; model=custom model._target_=models.churn.load"),
        ("m.json", "is no file that model=sklearn reads; a loader of your own reads it: model=custom"),
        ("org/some-model", "there is no such file; if it names a model on a hub, a loader of your own"),
    ],
)
def test_what_is_no_model_file_is_told_with_what_to_do(
    path: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model=sklearn", f"model.path={path}", "source.path=in", "mode=inline", "sink.path=out"]) == 2
    assert f"model.path={path}: {told}" in capsys.readouterr().err


def test_a_collate_that_is_not_there_is_found_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["model=torch", "model.path=none.pt", "model.module=collections.OrderedDict", "model.collate=json.lodas"]
    assert main([*argv, "source.path=in", "mode=inline", "sink.path=out"]) == 2
    assert "model.collate=json.lodas: module json has no lodas" in capsys.readouterr().err
