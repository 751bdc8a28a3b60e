"""Every file of `conf/`: it composes, it fits what it configures, and every preset runs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from outside import ROWS, predictions, shared

from runner import ConfigError, run
from runner.__main__ import main
from runner.config.options import CONF, options
from runner.config.targets import locate
from runner.types import Errors, Predict, RayOptions, Resources

OPTIONS = sorted(f"{group.name}={file.stem}" for group in CONF.glob("*/") for file in options(group))
COMPONENTS = [file for group in ("mode", "model", "sink", "source") for file in options(CONF / group)]
NEEDED = {
    "source": {
        "uri": "sqlite:///empty.db",
        "path": "empty",
        "_target_": "runner.sources.files.Files",
        "format": "parquet",
    },
    "model": {"path": "m", "_target_": "models.taxi.load"},
    "mode": {"_target_": "runner.modes.inline.Inline"},
    "sink": {
        "path": "out",
        "_target_": "runner.sinks.files.Files",
        "format": "csv",
        "uri": "sqlite:///out.db",
    },
}
TABLE = "shop.orders"  # what else must be given is one
TAXI = {"path": "taxi"}
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "classic_tasks": {"model.payload_bytes": 1000},
    "classic_actors": {"model.payload_bytes": 1000, "num_actors": 1},
    "classic_gpu": {"resources.num_gpus": 0},
    "taxi_s3": {},
}


@pytest.fixture
def rides(tmp_path: Path) -> Path:
    """A few rides with the columns that the presets' models take."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "taxi").mkdir()
    numbers = [float(i) for i in range(ROWS)]
    table = pa.table(dict.fromkeys(("passenger_count", "trip_distance", "fare_amount"), numbers))
    pq.write_table(table, tmp_path / "taxi" / "x.parquet")
    return tmp_path


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_binds(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what it says must be given, `action=plan` accepts it."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "m").touch()
    group, _, name = option.partition("=")
    file = shared(CONF / group / f"{name}.yaml")
    node = file.get(group, file)
    given = [f"{group}.{key}={NEEDED[group].get(key, TABLE)}" for key, value in node.items() if value == "???"]
    if name == "custom" and group in ("source", "sink"):
        given = [f"{group}.{key}={value}" for key, value in NEEDED[group].items() if key != "uri"]
    given += ["source.allow_empty=true"] * (group == "source" and name not in ("auto", "huggingface", "taxi"))
    given += ["source.path=empty", "source.allow_empty=true"] * (
        option == "job=taxi_s3"
    )  # which names a bucket far away
    given += ["source.table=rides"] * (option == "source=sql")
    given += ["model.module=collections.OrderedDict"] * (option == "model=torch")
    if option == "source=delta":
        from deltalake import write_deltalake

        write_deltalake(tmp_path / "empty", pa.table({"passenger_count": [1.0]}))
    if option == "source=huggingface":
        from datasets import Dataset

        Dataset.from_dict({"passenger_count": [1.0]}).save_to_disk(tmp_path / "empty")
    checked = main([option, *given, "--cfg", "job", "--resolve"])
    assert checked == 0, capsys.readouterr().err
    with pytest.raises(ConfigError) as refused:
        run(
            {
                group: name,
                **{key: value == "true" or value for key, _, value in (each.partition("=") for each in given)},
                "batch_size": 0,
            }
        )
    assert refused.value.problems == ["batch_size=0: expected a whole number >= 1"]


def test_what_options_share_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(file.stem for file in (CONF / "source").glob("[!_]*.yaml"))
    assert {"auto", "csv", "parquet"} < set(names)
    assert [file.stem for file in options(CONF / "source")] == names
    for argv in (["source=_files"], ["mode=inline", "source=excel"]):
        assert main(argv) == 2
        assert f"{argv[-1]}: no such option (there are: {', '.join(names)})" in capsys.readouterr().err
    Path("conf/job").mkdir(parents=True)
    Path("conf/job/mine.yaml").write_text("# @package _global_\ndefaults: [override /source: excel]\n")
    assert main(["--config-dir=conf", "job=mine"]) == 2
    assert f"source=excel: no such option (there are: {', '.join(names)})" in capsys.readouterr().err


def test_an_option_of_ones_own_builds_on_one_of_ours() -> None:
    Path("conf/source").mkdir(parents=True)
    Path("conf/source/lake.yaml").write_text("defaults: [csv]\npath: lake/\ndelimiter: ';'\nallow_empty: true\n")
    Path("lake").mkdir()
    report = run({"source": "lake", "mode": "inline", "sink.path": "out"}, config_dir="conf", model=len)
    assert report.rows_in == 0


@pytest.mark.parametrize("file", COMPONENTS, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_key_is_there(file: Path) -> None:
    """A component's file shows all of its keys, so that reading it is enough."""
    content = shared(file)
    node = content.get(file.parent.name, content)
    target = node.pop("_target_")
    if target == "???":
        return
    optional = {"delimiter", "column_types", "compression", "encoding", "mode", "size"}  # of some formats only
    parameters = set(inspect.signature(locate(target)).parameters)
    hidden = parameters - set(node)
    assert set(node) <= parameters
    assert hidden <= (optional if "path" in parameters else set()) | (
        {"columns", "filters", "allow_empty"} if "Taxi" in target else set()
    )


@pytest.mark.parametrize(
    ("key", "kind"),
    [("predict", Predict), ("ray", RayOptions), ("resources/default", Resources), ("errors/strict", Errors)],
)
def test_option_files_have_the_defaults_of_their_class(key: str, kind: Any) -> None:
    folder = "/" in key
    content: Any = OmegaConf.to_container(OmegaConf.load(CONF / (f"{key}.yaml" if folder else "config.yaml")))
    found = kind(**(content if folder else content[key]))
    assert found == kind()


@pytest.mark.parametrize("preset", sorted(file.stem for file in CONF.glob("job/*.yaml")))
def test_every_preset_runs(preset: str, rides: Path) -> None:
    assert preset in PRESETS, "a new preset: say how it runs on small data"
    report = run(
        {
            "job": preset,
            "source": "parquet",
            "source.path": "taxi",
            "mode": "inline",
            **_inline(PRESETS[preset]),
            "sink.path": "out",
        }
    )
    assert report.rows_out == ROWS == len(predictions(rides / "out"))


def _inline(given: dict[str, Any]) -> dict[str, Any]:
    return {**given, "num_actors": "auto"}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["classic_actors", "classic_gpu"])
@pytest.mark.usefixtures("ray_session")
def test_presets_of_actors_run_on_actors(preset: str, rides: Path) -> None:
    report = run({"job": preset, "source": "parquet", "source.path": "taxi", **PRESETS[preset], "sink.path": "out"})
    assert report.rows_out == ROWS == len(predictions(rides / "out"))


def test_the_network_is_the_same_every_time() -> None:
    import torch

    from models.taxi import network

    one, other, third = network(), network(), network(seed=1)
    batch = torch.ones(2, 3)
    assert torch.equal(one(batch), other(batch))
    assert not torch.equal(one(batch), third(batch))
    assert one(batch).shape == (2, 1)
