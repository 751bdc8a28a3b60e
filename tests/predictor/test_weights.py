"""One copy of a model for all processes of a machine: nothing is lost on the way, nothing is copied, nobody sees another's writes."""

from __future__ import annotations

import json
import pickle
import resource
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import predictors
import pytest
from conftest import Runs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_job import digests, job, predicted, write_input

from runner import Incomplete, run
from runner.predictor import vitals, weights
from runner.predictor.shipping import Delivered, Shipment, Shipper
from runner.report.summary import summary


@contextmanager
def mapped(value: Any) -> Iterator[Callable[[], weights.Parcel]]:
    """What maps a value that lies in a file, once more each time."""
    with tempfile.TemporaryFile() as file:
        weights.save(weights.pack(value), file)
        yield partial(weights.load, file.fileno())


def by_file(value: Any) -> Any:
    with mapped(value) as parcel:
        return parcel().unpack()


def by_copy(value: Any) -> Any:
    return weights.adopt([np.frombuffer(buffer, np.uint8) for buffer in weights.pack(value).buffers]).unpack()


def by_pickle(value: Any) -> Any:
    return pickle.loads(weights.portable(value))


LINUX = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="the system does not tell")
WAYS = pytest.mark.parametrize("travel", [by_file, by_copy, by_pickle])

# ---------------------------------------------------------------- nothing is lost


@settings(deadline=None)
@given(st.lists(arrays(np.float32, st.integers(0, 100), elements=st.floats(0, 1, width=32)), max_size=5))
@WAYS
def test_what_is_packed_is_unpacked(travel: Callable[[Any], Any], values: list[np.ndarray[Any, Any]]) -> None:
    found = travel({"weights": values, "name": "é"})
    assert found["name"] == "é"
    assert all(np.array_equal(a, b) for a, b in zip(found["weights"], values, strict=True))
    for array in found["weights"]:
        array += 1  # nothing arrives read-only


@WAYS
def test_a_closure_travels(travel: Callable[[Any], Any]) -> None:
    factor = np.arange(3)
    assert travel(lambda x: x * factor)(2).tolist() == [0, 2, 4]


@WAYS
def test_a_module_arrives_as_it_was(travel: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch")
    sent = predictors.network()
    found = travel(sent)
    for name, value in sent.state_dict(keep_vars=True).items():
        arrived = found.state_dict(keep_vars=True)[name]
        assert (type(arrived), arrived.dtype, arrived.requires_grad) == (type(value), value.dtype, value.requires_grad)
        assert torch.equal(arrived.to_dense(), value.to_dense())
        assert value.is_sparse or arrived.stride() == value.stride()
    x = torch.randn(32, 64)
    assert torch.equal(found(x), sent(x))


@WAYS
def test_what_is_tied_stays_tied(travel: Callable[[Any], Any]) -> None:
    pytest.importorskip("torch")
    found = travel(predictors.network())
    assert found.tied.weight is found.one.weight
    found.one.weight.data.fill_(3)
    assert (found.view == 3).all()


@WAYS
def test_torch_finds_its_weights_where_it_would_put_them_itself(travel: Callable[[Any], Any]) -> None:
    """Kernels may round differently over memory that is aligned in another way: then modes would differ in their bytes."""
    torch = pytest.importorskip("torch")
    for tensor in travel([torch.randn(size) for size in (1, 17, 1000, 100_003)]):
        assert tensor.data_ptr() % 64 == 0


def test_what_cannot_be_pickled_is_an_error() -> None:
    import threading

    with pytest.raises(TypeError, match="cannot pickle"):
        weights.pack(threading.Lock())


# ---------------------------------------------------------------- nothing is copied, and nobody sees another's writes


def big(kind: str) -> Any:
    return np.zeros(1_000_000) if kind == "numpy" else pytest.importorskip("torch").zeros(2_000_000)


@LINUX
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_weights_stay_in_the_file_until_somebody_writes(kind: str) -> None:
    with mapped(big(kind)) as parcel:
        one, other = parcel(), parcel()
        mine, theirs = one.unpack(), other.unpack()
        assert mine.sum() == 0
        assert one.written() == 0
        mine[:] += 1
        assert one.written() >= 8_000_000
        assert other.written() == 0
        assert theirs.sum() == 0
        assert parcel().unpack().sum() == 0


@LINUX
def test_one_small_write_copies_one_page() -> None:
    with mapped(np.zeros(1_000_000)) as parcel:
        one = parcel()
        one.unpack()[500_000] = 1
        assert 0 < one.written() <= 1 << 16


def test_packing_copies_no_weights() -> None:
    value = np.zeros(1_000_000)
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), value) for buffer in weights.pack(value).buffers)


@LINUX
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_weights_stay_in_rays_store_until_somebody_writes(kind: str) -> None:
    import ray

    def in_a_worker(box: list[Any]) -> tuple[bool, int, float, float]:
        parcel = weights.adopt(ray.get(box[0]))
        found = parcel.unpack()
        untouched, before = parcel.written(), float(found.sum())
        found[:] += 1
        return parcel.mapping is not None, untouched, before, float(weights.adopt(ray.get(box[0])).unpack().sum())

    box = [ray.put([np.frombuffer(buffer, np.uint8) for buffer in weights.pack(big(kind)).buffers])]
    remote = ray.remote(in_a_worker)
    assert ray.get([remote.remote(box) for _ in range(4)]) == [(True, 0, 0, 0)] * 4


def test_memory_that_cannot_be_mapped_is_copied() -> None:
    sent = np.zeros(100_000)
    parcel = weights.adopt([np.frombuffer(buffer, np.uint8) for buffer in weights.pack(sent).buffers])
    assert parcel.mapping is None
    parcel.unpack()[:] = 1
    assert sent.sum() == parcel.written() == 0


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize(("kind", "first"), [("numpy", 1), ("torch", 2)])
def test_a_model_that_writes_to_itself_is_alone_with_it(executor: Runs, tmp_path: Path, kind: str, first: int) -> None:
    pytest.importorskip("torch")
    write_input(tmp_path / "in", files=8)
    report = executor(job(tmp_path, "writing", **{"model.first": first, "model.kind": kind}))
    assert predicted(tmp_path) == [2 * x for x in range(200)]
    told = [line for line in summary(report) if "writes to its own weights" in line]
    assert len(told) == (report.vitals.model_bytes > 0), summary(report)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_module_in_training_predicts_the_same_in_every_mode(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_input(tmp_path / "in", files=4)
    found = []
    for mode in ("inline", "processes", "tasks", "actors"):
        run({**job(tmp_path, "in_training"), "mode": mode, "sink.path": str(tmp_path / mode)})
        found.append(digests(tmp_path, mode))
    assert all(each == found[0] for each in found)


@pytest.mark.slow
@LINUX
def test_workers_hold_no_copy_of_the_weights(executor: Runs, mode: str, tmp_path: Path) -> None:
    if mode == "inline":
        pytest.skip("one process has nobody to share with")
    pytest.importorskip("torch")
    write_input(tmp_path / "in", files=8)
    most = []
    for megabytes in (1, 200):
        out = {"sink.path": str(tmp_path / f"out-{megabytes}"), "model.megabytes": megabytes}
        report = executor({**job(tmp_path, "heavy"), **out})
        most.append(max(memory_told(tmp_path / f"out-{megabytes}")))
        assert report.vitals.model_bytes > megabytes << 20
    assert most[1] - most[0] < 100 << 20


def memory_told(sink: Path) -> list[int]:
    import pyarrow.dataset as ds

    values: list[int] = ds.dataset(sink, format="parquet").to_table()["memory"].to_pylist()
    return values


# ---------------------------------------------------------------- the model on its way


@pytest.mark.slow
def test_the_model_is_unpacked_once_per_process(crew: Runs, mode: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in", files=8)
    (tmp_path / "unpacked").mkdir()
    report = crew(job(tmp_path, "Unpacked", **{"model.folder": str(tmp_path / "unpacked")}))
    counts = Counter(path.name.partition("-")[0] for path in (tmp_path / "unpacked").iterdir())
    assert set(counts.values()) == (set() if mode == "inline" else {1})
    assert report.committed == 8


def test_the_driver_lets_go_of_a_model_that_is_packed() -> None:
    gone = []

    def load() -> Any:
        predictor = predictors.Unpacked("nowhere")
        gone.append(weakref.ref(predictor))
        return predictor

    source = Shipper(load, on_driver=True)
    source.begin()
    source.packed()
    assert gone[0]() is None


def test_a_child_gets_the_model_as_it_was_sent() -> None:
    """A child that is started late must predict what one that is started early does."""
    values = np.zeros(1000)

    def predict(batch: Any) -> Any:
        values[:] += batch
        return values.sum()

    with mapped(Shipment(predict, is_loader=False)) as parcel:
        model = Delivered(parcel, num_threads=1)
        assert model.obtain()([1]) == [1000]
        is_loader, held = pickle.loads(model.portable())
        assert not is_loader
        assert held(1) == 1000


def test_no_room_for_the_model_is_said(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(Incomplete, match=r"mode=processes: the model cannot be kept in .*: .*too large"):
            run(job(tmp_path, "writing", mode="processes", **{"model.first": 1, "model.kind": "numpy"}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("ray_session")
def test_no_room_in_rays_store_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def full(_: Any) -> Any:
        raise ray.exceptions.ObjectStoreFullError("no room")

    write_input(tmp_path / "in")
    monkeypatch.setattr(ray, "put", full)
    with pytest.raises(Incomplete, match=r"ray: the model .* cannot be put into the object store"):
        run(job(tmp_path, mode="tasks"))


# ---------------------------------------------------------------- what is told of it


@pytest.mark.slow
@LINUX
def test_the_report_tells_what_the_model_costs(executor: Runs, mode: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    report = executor(job(tmp_path, "heavy", **{"model.megabytes": 2, "predict.num_threads": 2}))
    told = report.vitals
    assert (told.model_bytes > 2 << 20) == (mode != "inline")
    assert told.load_seconds > 0
    assert (told.private_bytes or 0) > 1 << 20
    assert not told.copied
    assert report.threads == 2
    (line,) = (line for line in summary(report) if line.startswith("  model "))
    assert "private memory" in line
    assert ("shared" in line) == (mode != "inline")


def test_loaded_by_each_worker(executor: Runs, tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    settings = {"model.flag": str(tmp_path / "flag"), "model.seconds": 0.05, "predict.load_on": "worker"}
    report = executor(job(tmp_path, "loading_slowly", **settings))
    assert report.vitals.model_bytes == 0
    assert report.vitals.load_seconds >= 0.05
    (line,) = (line for line in summary(report) if line.startswith("  model "))
    assert "loaded in " in line
    assert "shared" not in line


def test_vitals_belong_to_the_run_and_not_to_the_part(tmp_path: Path) -> None:
    write_input(tmp_path / "in")
    run(job(tmp_path, mode="inline"))
    (folder,) = (tmp_path / "out/_runner/runs").iterdir()
    assert "load_seconds" in json.loads((folder / "report.json").read_text())["vitals"]
    assert "vitals" not in (folder / "receipts-0.jsonl").read_text()


@LINUX
def test_private_memory_is_what_a_process_fills() -> None:
    before = vitals.private_bytes() or 0
    filled = np.ones(4_000_000)
    assert (vitals.private_bytes() or 0) - before > filled.nbytes // 2


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals, "COUNTERS", "/nowhere")
    assert vitals.private_bytes() is None
