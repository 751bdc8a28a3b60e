"""Datasets of Hugging Face: rows of a split, from a folder of `save_to_disk`, a folder of files, or the hub, at a pinned commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Runs
from sources.test_source_seam import typed
from test_cluster import _wait_for_parts
from test_job import digests, job, predicted
from test_kill import finished, kill_driver, start

os.environ["HF_HUB_OFFLINE"] = "1"  # before the first import

from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value

from runner import ConfigError, run
from runner.__main__ import main
from runner.sources import huggingface
from runner.sources.huggingface import HuggingFace
from runner.testing import check_source

FEATURES = Features(
    {"x": Value("int64"), "kind": ClassLabel(names=["even", "odd"]), "matrix": Array2D((2, 2), "float32")}
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    huggingface._held.cache_clear()


def dataset(rows: int = 100, first: int = 0) -> Dataset:
    x = range(first, first + rows)
    return Dataset.from_dict(
        {"x": [*x], "kind": [i % 2 for i in x], "matrix": [[[i, 1], [2, 3]] for i in x]}, features=FEATURES
    )


def dataset_job(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return job(
        tmp_path,
        source="huggingface",
        shard_bytes=1_000,
        **{"source.path": str(tmp_path / "in"), "predict.columns": ["x"], **more},
    )


def test_it_keeps_the_promises_of_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "FRAGMENTS", 10)
    DatasetDict(train=dataset(), test=dataset(5)).save_to_disk(tmp_path / "in")
    check_source(HuggingFace(str(tmp_path / "in"), split="train"))
    check_source(HuggingFace(str(tmp_path / "in"), split="train", columns=["matrix", "x"], filters=[["x", ">", 42]]))


def test_rows_of_a_saved_dataset_are_predicted_in_every_mode(executor: Runs, tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "in", num_shards=3)
    more = {
        "model._target_": "predictors.failing_on",
        "model.value": 70,
        "errors": "quarantine",
        "errors.max_bad_rows": 1,
        "source.filters": [["x", ">", 20]],
    }
    report = executor(dataset_job(tmp_path, **more))
    assert (report.rows_out, report.rows_quarantined) == (78, 1)
    assert predicted(tmp_path) == [2 * x for x in range(21, 100) if x != 70]
    [aside] = pq.read_table(tmp_path / "out/_runner/quarantine").to_pylist()
    assert (aside["x"], aside["_row"], aside["matrix"]) == (70, 70, [[70, 1], [2, 3]])
    assert len(digests(tmp_path)) > 1
    assert main([*typed(dataset_job(tmp_path, **more)), "action=verify", "verify.deep=true"]) == 0


def test_a_folder_of_files_is_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/train.csv").write_text("x,word\n" + "".join(f"{i},w{i}\n" for i in range(50)))
    (tmp_path / "in/test.csv").write_text("x,word\n7,seven\n")
    run(dataset_job(tmp_path, mode="inline", **{"source.split": "train[:20]"}))
    assert predicted(tmp_path) == [2 * x for x in range(20)]


def test_a_dataset_that_changed_is_refused(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "in")
    run(dataset_job(tmp_path, mode="inline"))
    dataset(first=5).save_to_disk(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"in changed since it was planned"):
        run(dataset_job(tmp_path, mode="inline"))


@pytest.mark.slow
def test_a_job_on_a_dataset_survives_its_driver(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "in")
    given = typed({**dataset_job(tmp_path), "model._target_": "predictors.slow", "model.seconds": 0.1})
    running = start(tmp_path, "processes", *given)
    _wait_for_parts(tmp_path, 1, running)
    kill_driver(running)
    finished(start(tmp_path, "processes", *given))
    assert predicted(tmp_path) == [2 * x for x in range(100)]


def test_the_hub_is_read_at_the_commit_that_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself cannot be reached from here: what `load_dataset` is asked for is looked at."""
    newest, asked = ["a" * 40], list[str | None]()

    def load(path: str, name: str | None, split: str, revision: str | None) -> Any:
        assert (path, name, split) == ("somebody/numbers", None, "train")
        asked.append(revision)
        at = newest[0] if revision in (None, "main") else revision
        held = dataset(first=0 if at == "a" * 40 else 1_000)
        return _At(held, at)

    monkeypatch.setattr("datasets.load_dataset", load)
    more = {"source.path": "somebody/numbers", "source.split": "train", "mode": "inline"}
    run(dataset_job(tmp_path, **more))
    assert asked[0] is None
    assert set(asked[1:]) == {"a" * 40}
    newest[0] = "b" * 40
    (tmp_path / "out/_SUCCESS").unlink()
    sorted((tmp_path / "out").glob("part-*"))[1].unlink()
    run(dataset_job(tmp_path, **more))
    assert predicted(tmp_path) == [2 * x for x in range(100)]
    with pytest.raises(ConfigError, match="changed since it was planned"):
        run(dataset_job(tmp_path, **more, **{"source.revision": "main"}))


class _At:
    """A dataset as the hub's cache holds it."""

    def __init__(self, held: Dataset, commit: str) -> None:
        self.data, self._indices = held.data, None
        self.cache_files = [{"filename": f"/cache/0.0.0/{commit}/train.arrow"}]

    def __len__(self) -> int:
        return int(self.data.num_rows)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, r"source.split=None: .*in has the splits train, test; name one of them"),
        ({"source.split": "trian"}, r"source.split=trian: .*has the splits train, test"),
        ({"source.path": "nowhere"}, r"source.path=nowhere: cannot be loaded as a dataset: .*(?i:reach|found)"),
        ({"source.path": "s3://b/k"}, r"expected a local folder or a name on the hub; source=arrow reads"),
        ({"source.split": "test", "predict.columns": ["X"]}, r"there is no column 'X' .*did you mean 'x'"),
        ({"source.split": "test", "source.filters": [["x", ">", "a"]]}, r"source.filters"),
    ],
    ids=["no split", "another split", "nothing", "a storage", "no column", "no filter"],
)
def test_what_is_wrong_is_told_before_anything_runs(tmp_path: Path, more: dict[str, Any], told: str) -> None:
    DatasetDict(train=dataset(5), test=dataset(5)).save_to_disk(tmp_path / "in")
    with pytest.raises(Exception, match=told):
        run(dataset_job(tmp_path, mode="inline", **more))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs datasets: pip install .*\[huggingface\]"):
        HuggingFace("in")


def test_types_of_the_package_become_plain(tmp_path: Path) -> None:
    dataset(3).save_to_disk(tmp_path / "in")
    source = HuggingFace(str(tmp_path / "in"))
    _, schema = source.inspect(source.inputs())
    assert schema is not None
    assert schema.types == [pa.int64(), pa.int64(), pa.list_(pa.list_(pa.float32()))]
