from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloudpickle
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from models import torch as loader
from models.torch import load
from runner.testing import check_loader
from runner.types import BatchKind

HERE = __name__
ROWS = {"a": [1.0, 2.0, 3.0], "b": [10, 20, 30], "unused": ["x", "y", "z"]}
KINDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pandas": pd.DataFrame,
    "nullable": lambda rows: pd.DataFrame(rows).convert_dtypes(),
    "arrow": pa.table,
    "record batch": pa.RecordBatch.from_pydict,
    "numpy": lambda rows: {name: np.array(values) for name, values in rows.items()},
    "torch": lambda rows: {name: torch.tensor(values) for name, values in rows.items() if name != "unused"},
}


class Net(nn.Module):
    """Adds up its inputs, `width` times over; in training it would return noise."""

    def __init__(self, width: int = 1, inputs: int = 2) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, width)
        self.dropout = nn.Dropout(0.9)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        summed: torch.Tensor = self.dropout(self.layer(rows))
        return summed


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.second = nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(rows))
        return found


class Returns(nn.Module):
    """Returns what a function makes of its arguments."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return FORWARDS[self.name](*args, **kwargs)


FORWARDS: dict[str, Callable[..., Any]] = {
    "flat": lambda rows: rows[:, 0],
    "scalar": lambda rows: rows.sum(),
    "tuple": lambda rows: (rows, rows),
    "named": lambda rows: {"low": rows[:, :1], "both": rows},
    "named badly": lambda rows: {"low": rows, "note": "text"},
    "half": lambda rows: rows.to(torch.bfloat16),
    "two": lambda left, right: left - right,
    "grad": lambda rows: torch.tensor([float(torch.is_inference_mode_enabled())] * len(rows)),
}


def network(width: int = 1) -> Net:
    return Net(width)


def not_a_network() -> str:
    return "text"


def as_tuple(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(batch["a"].to_numpy()), torch.tensor(batch["b"].to_numpy())


def as_dict(batch: Any) -> dict[str, torch.Tensor]:
    left, right = as_tuple(batch)
    return {"right": right, "left": left}


def as_tensor(batch: Any) -> torch.Tensor:
    return torch.stack(as_tuple(batch), dim=1).float()


NUMBER = 3


@pytest.fixture
def trained() -> Net:
    net = Net(width=3)
    with torch.no_grad():
        net.layer.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    return net


EXPECTED = [[11.0, 12.0, 13.0], [22.0, 23.0, 24.0], [33.0, 34.0, 35.0]]


def saved(net: nn.Module, path: Path) -> str:
    kind = path.suffix
    if kind == ".safetensors":
        save_file(net.state_dict(), path)
    elif kind == ".ts":
        write_script(net, path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=kind != ".pth")
    return str(path)


def write_script(net: nn.Module, path: Path, freeze: bool = False) -> str:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        script = torch.jit.script(net.eval())
        torch.jit.save(torch.jit.freeze(script) if freeze else script, path)
    return str(path)


def copied(predictor: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(predictor))


# ---------------------------------------------------------------- what is loaded


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ts"])
def test_every_kind_of_file_gives_the_same_predictions_also_after_pickling(
    suffix: str, trained: Net, tmp_path: Path
) -> None:
    path = saved(trained, tmp_path / f"m{suffix}")
    weights: dict[str, Any] = {} if suffix == ".ts" else {"module": f"{HERE}.Net", "module_args": {"width": 3}}
    predictor = load(path, columns=["a", "b"], **weights)
    batch = pd.DataFrame(ROWS)
    assert copied(predictor)(batch)["prediction"].tolist() == EXPECTED
    assert predictor(batch)["prediction"].tolist() == EXPECTED
    assert copied(predictor)(batch)["prediction"].tolist() == EXPECTED  # once used, it still travels


def test_a_module_needs_no_file() -> None:
    built = load(module=f"{HERE}.network", module_args={"width": 2}, columns=["a", "b"])
    assert built(pd.DataFrame(ROWS))["prediction"].tolist() == [[11.0, 11.0], [22.0, 22.0], [33.0, 33.0]]


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict"])
def test_a_checkpoint_may_hold_the_state_dict_beside_other_things(key: str, trained: Net, tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: trained.state_dict()}, tmp_path / "m.pt")
    predictor = load(str(tmp_path / "m.pt"), module=f"{HERE}.Net", module_args={"width": 3}, columns=["a", "b"])
    assert predictor(pd.DataFrame(ROWS))["prediction"].tolist() == EXPECTED


def test_safetensors_may_leave_out_the_second_name_of_shared_weights(tmp_path: Path) -> None:
    net = Tied()
    save_model(net, str(tmp_path / "m.safetensors"))
    predictor = load(str(tmp_path / "m.safetensors"), module=f"{HERE}.Tied", columns=["a", "b"])
    batch = pd.DataFrame(ROWS)
    expected = net(torch.tensor(batch[["a", "b"]].to_numpy(np.float32))).detach().numpy()
    np.testing.assert_array_equal(predictor(batch)["prediction"], expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ts"])
def test_a_file_may_lie_on_any_storage(suffix: str, trained: Net, tmp_path: Path) -> None:
    local = saved(trained, tmp_path / f"m{suffix}")
    uri = f"memory://models/m{suffix}"
    fsspec.filesystem("memory").pipe_file(f"/models/m{suffix}", Path(local).read_bytes())
    module = None if suffix == ".ts" else f"{HERE}.Net"
    args = None if suffix == ".ts" else {"width": 3}
    predictor = load(uri, module, args, columns=["a", "b"], storage_options={"skip_instance_cache": True})
    assert predictor(pd.DataFrame(ROWS))["prediction"].tolist() == EXPECTED


def test_a_whole_pickled_module_needs_trust(trained: Net, tmp_path: Path) -> None:
    path = str(tmp_path / "m.pt")
    torch.save(trained, path)
    with pytest.raises(ValueError, match=r"m\.pt holds something other than tensors.*Net.*model\.trust_pickle=true"):
        load(path, columns=["a", "b"])
    assert load(path, columns=["a", "b"], trust_pickle=True)(pd.DataFrame(ROWS))["prediction"].tolist() == EXPECTED
    with pytest.raises(ValueError, match=r"holds a whole module, so model\.module has no effect"):
        load(path, module=f"{HERE}.Net", columns=["a", "b"], trust_pickle=True)


def test_a_frozen_script_travels(trained: Net, tmp_path: Path) -> None:
    predictor = load(write_script(trained, tmp_path / "m.ts", freeze=True), columns=["a", "b"])
    assert copied(copied(predictor))(pd.DataFrame(ROWS))["prediction"].tolist() == EXPECTED


def test_a_script_pickles_into_a_buffer_that_can_be_shared(trained: Net, tmp_path: Path) -> None:
    predictor = load(write_script(trained, tmp_path / "m.ts"), columns=["a", "b"])
    buffers: list[pickle.PickleBuffer] = []
    small = cloudpickle.dumps(predictor, protocol=5, buffer_callback=buffers.append)
    assert len(small) < 2_000 < sum(buffer.raw().nbytes for buffer in buffers)
    assert pickle.loads(small, buffers=buffers)(pd.DataFrame(ROWS))["prediction"].tolist() == EXPECTED


def test_the_module_is_ready_for_inference_only() -> None:
    predictor: Any = load(module=f"{HERE}.Net", columns=["a", "b"])
    assert not any(part.training for part in predictor.module.modules())
    assert not any(parameter.requires_grad for parameter in predictor.module.parameters())
    inference = load(module=f"{HERE}.Returns", module_args={"name": "grad"}, columns=["a"])
    assert inference(pd.DataFrame(ROWS))["prediction"].tolist() == [1.0, 1.0, 1.0]


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_every_kind_of_batch_become_one_tensor(kind: str) -> None:
    predictor = load(module=f"{HERE}.Net", columns=["b", "a"])
    assert predictor(KINDS[kind](ROWS))["prediction"].tolist() == [11.0, 22.0, 33.0]


@pytest.mark.parametrize("kind", ["pandas", "nullable", "arrow", "numpy"])
def test_nulls_are_nan_and_columns_keep_their_order(kind: str) -> None:
    rows = {"a": [1, None, 3], "b": [True, False, None], "c": [Decimal("0.5")] * 3}
    batch = {name: np.array(values, object) for name, values in rows.items()} if kind == "numpy" else KINDS[kind](rows)
    given = loader._tensor(batch, ["c", "a", "b"], "float32")
    assert given.dtype == torch.float32
    assert given.is_contiguous()
    expected = [[0.5, 1, 1], [0.5, np.nan, 0], [0.5, 3, np.nan]]
    np.testing.assert_array_equal(given.numpy(), np.array(expected, "float32"))


def test_an_empty_batch_gives_no_predictions() -> None:
    predictor = load(module=f"{HERE}.Net", module_args={"width": 2}, columns=["a", "b"], output=["x", "y"])
    assert [len(column) for column in predictor(pd.DataFrame(ROWS).head(0)).values()] == [0, 0]


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_weights_take_the_type_of_the_columns(dtype: Any) -> None:
    predictor: Any = load(module=f"{HERE}.Net", columns=["a", "b"], dtype=dtype)
    assert predictor.module.layer.weight.dtype == getattr(torch, dtype)
    predictions = predictor(pd.DataFrame(ROWS))["prediction"]
    assert predictions.dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert predictions.tolist() == [11.0, 22.0, 33.0]


def test_integers_leave_the_weights_alone_and_refuse_what_they_cannot_hold() -> None:
    predictor: Any = load(
        module="torch.nn.Embedding",
        module_args={"num_embeddings": 40, "embedding_dim": 2},
        columns=["b"],
        dtype="int64",
    )
    assert predictor.module.weight.dtype == torch.float32
    assert predictor(pd.DataFrame(ROWS))["prediction"].shape == (3, 1, 2)
    with pytest.raises(ValueError, match=r"column 'b' \(float64\) has values that do not convert to int64"):
        predictor(pd.DataFrame({"b": [1, None]}))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            pd.DataFrame({"a": [1]}),
            r"missing  'b'",
        ),
        (pd.DataFrame({"a": [1], "b": ["x"]}), r"column 'b' .* do not convert to float32: could not convert"),
        (
            pd.DataFrame({"a": [1], "b": [1e300]}),
            r"column 'b' \(float64\) .* do not convert to float32: overflow",
        ),
        (
            pd.DataFrame({"a": [1], "b": pd.to_datetime(["2009-01-01"])}),
            "column 'b' is datetime64.*model.collate",
        ),
        (
            pd.DataFrame({"a": [1], "b": pd.Series(["2009-01-01"], dtype="timestamp[us][pyarrow]")}),
            "column 'b' is datetime64.*model.collate",
        ),
        ({"a": np.ones(2), "b": np.ones((2, 3))}, r"column 'b' \(float64\) has values that do not convert"),
    ],
)
def test_a_batch_that_does_not_fit_is_an_error_that_names_the_column(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(module=f"{HERE}.Net", columns=["a", "b"])(batch)


def test_something_that_is_no_batch_is_named() -> None:
    with pytest.raises(TypeError, match="a batch of type list has no columns"):
        load(module=f"{HERE}.Net", columns=["a", "b"])([1, 2])


@pytest.mark.parametrize("collate", ["as_tuple", "as_dict"])
def test_a_collate_function_may_give_several_arguments(collate: str) -> None:
    predictor = load(module=f"{HERE}.Returns", module_args={"name": "two"}, collate=f"{HERE}.{collate}")
    assert copied(predictor)(pd.DataFrame(ROWS))["prediction"].tolist() == [-9.0, -18.0, -27.0]


def test_a_collate_function_may_give_one_tensor() -> None:
    predictor = load(module=f"{HERE}.Net", collate=f"{HERE}.as_tensor")
    assert predictor(pd.DataFrame(ROWS))["prediction"].tolist() == [11.0, 22.0, 33.0]


# ---------------------------------------------------------------- what it returns


def returning(name: str, output: Any = "prediction") -> Any:
    return load(module=f"{HERE}.Returns", module_args={"name": name}, columns=["a", "b"], output=output)


def test_scalars_vectors_and_columns(trained: Net, tmp_path: Path) -> None:
    batch = pd.DataFrame(ROWS)
    path = saved(trained, tmp_path / "m.ts")
    assert returning("flat", "x")(batch)["x"].tolist() == [1.0, 2.0, 3.0]
    assert load(path, columns=["a", "b"], output="v")(batch)["v"].shape == (3, 3)
    columns = load(path, columns=["a", "b"], output=["p", "q", "r"])(batch)
    assert {name: values.tolist() for name, values in columns.items()} == {
        "p": [11.0, 22.0, 33.0],
        "q": [12.0, 23.0, 34.0],
        "r": [13.0, 24.0, 35.0],
    }
    assert returning("flat", ["x"])(batch)["x"].tolist() == [1.0, 2.0, 3.0]


def test_a_dict_names_its_own_columns() -> None:
    found = returning("named")(pd.DataFrame(ROWS))
    assert found["low"].tolist() == [1.0, 2.0, 3.0]
    assert found["both"].shape == (3, 2)
    assert returning("half")(pd.DataFrame(ROWS))["prediction"].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("scalar", "x", "a single value for the whole batch; one per row is expected"),
        ("tuple", "x", "the module returned a tuple; expected a tensor or a dict of tensors"),
        ("named badly", "x", "the module returned a str; expected"),
        ("named", "x", None),
        (
            "flat",
            ["x", "y"],
            r"model\.output=\['x', 'y'\] names 2 columns, but the model's output has shape \[3\]",
        ),
        (
            "half",
            ["x"],
            r"names 1 columns, but the model's output has shape \[3, 2\]; give a name for each value",
        ),
    ],
)
def test_an_output_that_is_no_column_is_explained(name: str, output: Any, message: str | None) -> None:
    if message is None:
        assert set(returning(name, output)(pd.DataFrame(ROWS))) == {"low", "both"}
        return
    with pytest.raises(ValueError, match=message):
        returning(name, output)(pd.DataFrame(ROWS))


# ---------------------------------------------------------------- what does not load


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"either model\.columns=\[\.\.\.\] or model\.collate"),
        (
            {"columns": ["a"], "collate": f"{HERE}.as_tensor"},
            r"given are model\.columns=\['a'\] and model\.collate=",
        ),
        ({"columns": []}, r"given are model\.columns=\[\]"),
        ({"columns": ["a"]}, r"needs model\.path, model\.module, or both"),
        ({"columns": ["a"], "module": f"{HERE}.Nett"}, r"model\.module=.*Nett: module .* has no Nett"),
        ({"columns": ["a"], "module": "nowhere.Net"}, r"model\.module=nowhere\.Net: there is no module nowhere"),
        ({"columns": ["a"], "module": "Net"}, r"model\.module=Net: there is no module Net"),
        ({"columns": ["a"], "module": f"{HERE}.NUMBER"}, r"model\.module=.*NUMBER: is an int, not something to call"),
        ({"columns": ["a"], "module": "builtins.dict"}, r"builtins\.dict returned a dict"),  # has no signature
        (
            {"columns": ["a"], "module": f"{HERE}.not_a_network"},
            r"not_a_network returned a str; expected a torch",
        ),
        (
            {"columns": ["a"], "module": f"{HERE}.Net", "module_args": {"hidden": 3}},
            r"model\.module_args does not fit .*Net\(width: 'int' = 1, inputs: 'int' = 2\).*'hidden'",
        ),
        (
            {"collate": f"{HERE}.missing", "module": f"{HERE}.Net"},
            r"model\.collate=.*missing: module .* has no missing",
        ),
        ({"columns": ["a"], "module": f"{HERE}.Net", "device": "cuad"}, r"model\.device=cuad is no device"),
        (
            {"columns": ["a"], "path": "m.safetensors"},
            r"holds weights only: name the class .* model\.module=",
        ),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**arguments)


def test_only_allowed_code_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.config.allowed.entries", (HERE,))
    load(module=f"{HERE}.Net", columns=["a", "b"])
    for module, message in {
        "os.system": r"model\.module=os\.system: is not allowed here; RUNNER_ALLOWED_TARGETS=",
        f"{HERE}.warnings.warn": r"warnings\.warn, which is not allowed here",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(module=module, columns=["a"])
    with pytest.raises(ValueError, match=r"model\.collate=os\.getcwd: .*is.* not allowed here"):
        load(module=f"{HERE}.Net", collate="os.getcwd")


@pytest.mark.parametrize("uri", ["nowhere/m.pt", "memory://nowhere/m.pt", "memory://nowhere/m.safetensors"])
def test_a_file_that_is_not_there_is_named_by_its_key(uri: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"model.path={uri}: there is no such file"):
        load(uri, module=f"{HERE}.Net", columns=["a"])


def test_weights_of_another_module_are_listed(trained: Net, tmp_path: Path) -> None:
    path = saved(trained, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"(?s)m\.safetensors does not fit .*model\.module_args.*layer\.weight.*shape"):
        load(path, module=f"{HERE}.Net", columns=["a", "b"])
    with pytest.raises(ValueError, match=r"(?s)does not fit.*Missing key.*first\.weight.*Unexpected key.*layer\.bias"):
        load(path, module=f"{HERE}.Tied", columns=["a", "b"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "m.safetensors",
            b"no tensors here",
            r"m\.safetensors cannot be read as safetensors: .*; it begins like plain text",
        ),
        ("m.pt", b"garbage" * 10, r"m\.pt cannot be read as a file of torch\.save: .*; it begins like plain text"),
        ("m.pt", b"", r"m\.pt cannot be read as a file of torch\.save: .*end"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / name), module=f"{HERE}.Net", columns=["a"])


def test_a_half_written_archive_is_named(trained: Net, tmp_path: Path) -> None:
    path = Path(saved(trained, tmp_path / "m.pt"))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"m\.pt (cannot be read|holds something other)"):
        load(str(path), module=f"{HERE}.Net", columns=["a"])


def test_weights_alone_and_other_things_are_told_apart(trained: Net, tmp_path: Path) -> None:
    path = saved(trained, tmp_path / "m.pt")
    with pytest.raises(ValueError, match="holds weights only: name the class they belong to"):
        load(path, columns=["a"])
    torch.save(torch.ones(2), path)
    with pytest.raises(ValueError, match="holds a Tensor; expected a state dict or a module"):
        load(path, module=f"{HERE}.Net", columns=["a"])
    with pytest.raises(ValueError, match=r"holds a whole module, so model\.module has no effect"):
        load(write_script(trained, tmp_path / "m.ts"), module=f"{HERE}.Net", columns=["a"])


# ---------------------------------------------------------------- where it runs


def test_a_gpu_is_used_where_one_is_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for visible, expected in {"0": "cuda", "": "cpu", None: "cpu"}.items():
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert loader._assigned_device() == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loader._assigned_device() == "cpu"


def test_a_device_that_is_not_there_shows_at_the_first_call_and_says_what_to_ask_for() -> None:
    predictor = load(module=f"{HERE}.Net", columns=["a", "b"], device="cuda:99")
    with pytest.raises(ValueError, match=r"model\.device=cuda:99 cannot be used .*resources\.num_gpus=1"):
        predictor(pd.DataFrame(ROWS))


def test_inputs_are_moved_wherever_they_lie() -> None:
    meta = torch.device("meta")
    left, rest = loader._moved((torch.ones(1), {"x": torch.ones(1), "n": 3}), meta)
    assert left.device == rest["x"].device == meta
    assert rest["n"] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("suffix", [".safetensors", ".ts"])
def test_on_a_gpu_the_module_moves_once_and_travels_on_the_cpu(suffix: str, trained: Net, tmp_path: Path) -> None:
    path = saved(trained, tmp_path / f"m{suffix}")
    weights: dict[str, Any] = {} if suffix == ".ts" else {"module": f"{HERE}.Net", "module_args": {"width": 3}}
    predictor: Any = load(path, columns=["a", "b"], device="cuda", **weights)
    batch = pd.DataFrame(ROWS)
    np.testing.assert_allclose(predictor(batch)["prediction"], EXPECTED)
    assert {parameter.device.type for parameter in predictor.module.parameters()} == {"cuda"}
    again = copied(predictor)
    assert {parameter.device.type for parameter in again.module.parameters()} == {"cpu"}
    np.testing.assert_allclose(again(batch)["prediction"], EXPECTED)
    np.testing.assert_allclose(predictor(batch)["prediction"], EXPECTED)


def test_importing_the_loader_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'sklearn', 'pandas', 'numpy', 'pyarrow', 'fsspec', 'joblib', 'ray'}"
    script = f"import models.torch, models.sklearn, models.taxi, sys; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---------------------------------------------------------------- how it runs


class Kind(nn.Module):
    """Tells the type that its product has, by the number of its bits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.full((len(rows),), torch.finfo(self.layer(rows).dtype).bits)


@pytest.mark.parametrize(("autocast", "bits"), [(None, 32), ("bfloat16", 16)])
def test_autocast_runs_in_the_smaller_type(autocast: Any, bits: int) -> None:
    predict = load(module=f"{HERE}.Kind", columns=["a", "b"], autocast=autocast, device="cpu")
    for each in (predict, cloudpickle.loads(cloudpickle.dumps(predict))):
        assert each(KINDS["numpy"](ROWS))["prediction"].tolist() == [bits] * 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++ here")
def test_a_compiled_module_predicts_the_same_also_where_it_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, compiled = (
        load(module=f"{HERE}.Net", columns=["a", "b"], device="cpu", compile=each) for each in (False, True)
    )
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its compiler
        for each in (compiled, cloudpickle.loads(cloudpickle.dumps(compiled))):
            assert each(KINDS["numpy"](ROWS))["prediction"] == pytest.approx(plain(KINDS["numpy"](ROWS))["prediction"])
    assert counters["frames"]["ok"] > 0


def test_pinned_memory_is_for_gpus_alone() -> None:
    predict = load(module=f"{HERE}.Net", columns=["a", "b"], device="cpu", pin_memory=True)
    assert predict(KINDS["numpy"](ROWS))["prediction"].tolist() == [11.0, 22.0, 33.0]


@pytest.mark.parametrize("kind", ["pandas", "arrow", "numpy", "torch"])
def test_it_keeps_the_promises_of_a_loader(kind: BatchKind) -> None:
    rows = pa.table({name: ROWS[name] for name in ("a", "b")})
    check_loader(lambda: load(module=f"{HERE}.Net", module_args={"width": 2}, columns=["a", "b"]), rows, kind=kind)
