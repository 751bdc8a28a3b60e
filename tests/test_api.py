"""Jobs from Python: the same keys, the same checks, an object in return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ids import shown
from outside import ROWS, predictions, write_data, write_ops
from test_config import forget_ops

import runner
from runner import ConfigError, plan, run


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path / "in")
    write_ops(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget_ops()
    return tmp_path


def double(batch: Any) -> Any:
    return batch["a"] * 2


EXPECTED = [2.0 * i for i in range(ROWS)]
SAME = [
    {"source": "parquet", "source.path": "in", "mode": "inline", "sink.path": "out", "model": double},
    {"source": {"path": "in"}, "mode": "inline", "sink": {"path": "out"}, "model": double},
    {
        "source": {"path": "in/", "format": "parquet"},
        "mode": "inline",
        "sink": {"path": "out", "save_mode": "error"},
        "model": double,
    },
    {"source": {"path": ["in/x.parquet"]}, "mode": "inline", "sink.path": Path("out"), "model": double},
    {"source.path": "in", "mode": "inline", "sink.path": "out", "model": {"_target_": "ops.loaders.load", "alpha": 2}},
    {
        "source.path": "in",
        "mode": "inline",
        "sink.path": "out",
        "model": "custom",
        "model._target_": "ops.loaders.load",
        "model.alpha": 2,
    },
    {"source.path": "${vars.place}", "vars": {"place": "in"}, "mode": "inline", "sink.path": "out", "model": double},
    {
        "source": {"_target_": "runner.sources.files.Files", "path": "in", "format": "parquet"},
        "mode": "inline",
        "sink.path": "out",
        "model": double,
    },
]


@pytest.mark.parametrize("config", SAME, ids=range(len(SAME)))
def test_ways_to_say_the_same(config: dict[str, Any], place: Path) -> None:
    report = run(config)
    assert (report.status, report.rows_out) == ("complete", ROWS)
    assert predictions(place / "out") == EXPECTED


def test_csv_by_its_extension(place: Path) -> None:
    (place / "data.csv").write_text("a,b\n1,2\n3,4\n")
    assert run({"source": {"path": "data.csv"}, "mode": "inline", "sink.path": "out"}, model=double).rows_out == 2
    assert predictions(place / "out") == [2, 6]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"source": {"pth": "in"}}, ["source.pth: no such key (did you mean path?)"]),
        ({"foo": {}}, ["foo: no such key (there are: "]),
        (
            {"batchsize": 3, "batch_size": 0},
            ["batchsize: no such key (did you mean batch_size?)", "batch_size=0: expected a whole number >= 1"],
        ),
        ({"mode": "inlin"}, ["mode=inlin: no such option (did you mean inline?)"]),
        ({"mode": 3}, ["mode=3: expected an option (there are: "]),
        ({"job": ["classic_tasks", "foo"]}, ["job=foo: no such option (there are: "]),
        ({"batch_size": object()}, ["batch_size: Value 'object' is not a supported primitive type"]),
        (
            {"sink": {"path": "o", "storage_options": {"secret": "s"}}},
            ["sink.storage_options.secret: a credential does not belong in a config; "],
        ),
        ({"model": double, "model.alpha": 3}, ["model.alpha: has no effect beside a model given in Python"]),
        (
            {"source": pd.Series([1, 2])},
            ["source: got a Series; expected a DataFrame or an Arrow table (series.to_frame())"],
        ),
        ({"source": [1, 2]}, ["source: got a list; expected a DataFrame or an Arrow table"]),
        ("nope.yaml", ["nope.yaml: there is no such file; expected a YAML file with the keys of the command line"]),
        (3, ["3: expected a mapping of keys to values, or the path of a YAML file of them"]),
    ],
    ids=shown,
)
def test_wrong_configs(config: Any, told: list[str], place: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run(config)
    assert len(refused.value.problems) == len(told)
    for problem, start in zip(refused.value.problems, told, strict=True):
        assert problem.startswith(start)
    assert not (place / "outputs").exists()


FILES = {
    "plain.yaml": "mode: inline\nsource.path: in\nmodel: {_target_: ops.loaders.load, alpha: 2}\nsink: {path: out}\n",
    "conf/job/preset.yaml": """# @package _global_
defaults:
  - override /mode: inline
  - override /model: custom
source: {path: in}
model: {_target_: ops.loaders.load, alpha: 2}
sink: {path: out}
""",
    "conf/whole.yaml": """
defaults: [config, override mode: inline, override model: custom, _self_]
source: {path: in}
model: {_target_: ops.loaders.load, alpha: 2}
sink: {path: out}
""",
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, place: Path) -> None:
    (place / name).write_text(FILES[name])
    assert run(name).rows_out == ROWS
    assert predictions(place / "out") == EXPECTED


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "wrong.yaml: is not YAML: "),
        ("- a", "wrong.yaml: expected a mapping of keys to values"),
        ("defaults: [override /mode: inlin]", "mode=inlin: no such option (did you mean inline?)"),
        ("batchsize: 3", "batchsize: no such key (did you mean batch_size?)"),
    ],
)
def test_wrong_files(text: str, told: str, place: Path) -> None:
    (place / "wrong.yaml").write_text(text)
    with pytest.raises(ConfigError) as refused:
        run(Path("wrong.yaml"))
    assert refused.value.problems[0].startswith(told)


def test_presets_of_another_folder(place: Path) -> None:
    report = run({"job": "daily", "vars.date": "2026-11-21", "mode": "inline"}, config_dir="conf")
    assert report.rows_out == ROWS
    assert predictions(place / "out/dt=2026-11-21") == [5.0 * i for i in range(ROWS)]


def test_plan_runs_nothing(place: Path) -> None:
    lines = plan({"source.path": "in", "mode": "inline", "sink.path": "out"})
    assert any("1 shard, 20 rows" in line for line in lines)
    assert not list((place / "out").glob("part-*"))


def scaled(factor: float) -> Callable[[Any], Any]:
    return lambda batch: batch["a"] * factor


def test_another_model_is_not_taken_for_the_first() -> None:
    write_data(Path("in"))
    config = {"source.path": "in", "mode": "inline", "sink.path": "out"}
    run(config, model=scaled(2.0))
    assert run(config, model=scaled(2.0)).committed == 0
    with pytest.raises(runner.SinkRefused, match=r"model\.code"):
        run(config, model=scaled(3.0))


def test_another_lambda_is_not_taken_for_the_first() -> None:
    write_data(Path("in"))
    config = {"source.path": "in", "mode": "inline", "sink.path": "out"}
    run(config, model=lambda batch: batch["a"] * 2)
    with pytest.raises(runner.SinkRefused, match=r"model\.code"):
        run(config, model=lambda batch: batch["a"] * 3)


def test_within_another_hydra_program(place: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(place / "conf"), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        run({"source.path": "in", "mode": "inline", "sink.path": "out"}, model=double)
        assert GlobalHydra.instance().hydra is before
        assert compose("job/eager").batch_size == 7


def test_public_names() -> None:
    assert len(set(runner.__all__)) == len(runner.__all__)
    assert all(hasattr(runner, name) for name in runner.__all__)


def test_a_loader_that_returns_an_estimator_is_told_to_return_its_method() -> None:
    from types import SimpleNamespace

    from runner.predictor.shipping import loaded

    estimator: Any = SimpleNamespace(predict=double)
    with pytest.raises(TypeError, match=r"expected a function of a batch; return its method: `return m\.predict`"):
        loaded(lambda: estimator)
