"""Model loaders for tests: each misbehaves, or counts, in one way. Importable in every worker."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from runner.process import pulse

Predictor = Callable[[Any], Any]


def doubling(factor: int = 2) -> Predictor:
    """`twice`: the column `x` times `factor`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": batch["x"] * factor})

    return predict


def ones() -> Predictor:
    """A 1 for every row, whatever its columns."""

    def predict(batch: pd.DataFrame) -> dict[str, list[int]]:
        return {"one": [1] * len(batch)}

    return predict


def reusing(kind: str) -> Predictor:
    """Twice `x`, in an array that each batch overwrites, or as something that views it."""
    import pyarrow as pa
    import torch

    held = np.zeros(100, "datetime64[s]" if kind == "dates" else float)
    views: dict[str, Callable[[Any], Any]] = {
        "numpy": lambda array: {"twice": array},
        "matrix": lambda array: {"twice": array.reshape(-1, 1)},
        "series": lambda array: pd.Series(array, name="twice", copy=False),
        "frame": lambda array: pd.DataFrame({"twice": pd.Series(array, copy=False)}, copy=False),
        "torch": lambda array: {"twice": torch.from_numpy(array)},
        "dates": lambda array: {"twice": array},
        "arrow": lambda array: {"twice": pa.array(array)},
        "arrow table": lambda array: pa.table({"twice": pa.chunked_array([pa.array(array)])}),
        "arrow series": lambda array: pd.Series(pd.arrays.ArrowExtensionArray(pa.array(array)), name="twice"),
    }

    def predict(batch: pd.DataFrame) -> Any:
        held[: len(batch)] = (2 * batch["x"].to_numpy()).astype(held.dtype)
        return views[kind](held[: len(batch)])

    return predict


def far_future() -> Predictor:
    """A time that Arrow holds in seconds and Parquet, in milliseconds, does not."""
    return lambda batch: np.full(len(batch), 2**62, "datetime64[s]")


def classic() -> Predictor:
    """The original example's loader, as it stands there."""

    def model(batch: pd.DataFrame) -> pd.DataFrame:
        model.payload = np.zeros(1_000)  # type: ignore[attr-defined]
        return pd.DataFrame({"score": batch["x"] % 2 == 0})

    return model


def counting(folder: str) -> Predictor:
    """Doubles, and leaves a file for each load and each call: counts cross processes."""
    Path(folder, f"load-{os.getpid()}-{time.monotonic_ns()}").touch()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        Path(folder, f"call-{os.getpid()}-{time.monotonic_ns()}").touch()
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def noting(folder: str, bad: Sequence[int] = (), kind: str = "frame", trouble_at: int = -1) -> Predictor:
    """Doubles, raises for a batch that holds a bad row, and leaves a file for each call that names its rows.

    At the row `trouble_at` a connection is lost, once.
    """

    def predict(batch: pd.DataFrame) -> Any:
        rows = [int(x) for x in batch["x"]]
        if rows:
            Path(folder, f"call-{'-'.join(map(str, rows))}.{os.getpid()}.{time.monotonic_ns()}").touch()
        flag = Path(folder).parent / "trouble"
        if trouble_at in rows and not flag.exists():
            flag.touch()
            raise ConnectionError("planned")
        if wrong := sorted(set(bad) & set(rows)):
            raise ArithmeticError(f"cannot predict {wrong[0]}")
        return (
            [2 * x if x > 3 else x * 2.5 for x in rows] if kind == "list" else pd.DataFrame({"twice": batch["x"] * 2})
        )

    return predict


def reading(folder: str) -> Predictor:
    """The `status` in the one report below a folder, as it is when the batch is predicted."""
    import json

    return lambda batch: [json.loads(p.read_text())["status"] for p in Path(folder).glob("*/report.json")] * len(batch)


def failing_on(value: int, unless: str = "") -> Predictor:
    """Raises for a batch that holds `value`, unless the file `unless` exists."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any() and not (unless and Path(unless).exists()):
            raise ArithmeticError(f"cannot predict {value}")
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def swapping(from_: str, to: str, value: int) -> Predictor:
    """Doubles; while it predicts `value`, a file comes to lie in the place of another."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any() and Path(to).exists():
            shutil.copyfile(from_, to)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def slow(seconds: float, flag: str | None = None) -> Predictor:
    """Doubles, takes its time, and says when it has begun."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if flag is not None:
            Path(flag).touch()
        time.sleep(seconds)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def watched(flag: str, last: int) -> Predictor:
    """Doubles; at a batch that holds `last` it waits until somebody who looks on has made a file."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        pulse.EVERY_SECONDS, given_up = 0.0, time.monotonic() + 30
        while (batch["x"] == last).any() and not Path(flag).exists():
            if time.monotonic() > given_up:
                raise TimeoutError("nobody looks on")
            time.sleep(0.01)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def staying() -> Predictor:
    """Doubles, but only on the thread of its first batch: some libraries keep what they need per thread."""
    threads: set[int] = set()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        threads.add(threading.get_ident())
        if len(threads) > 1:
            raise RuntimeError("on another thread")
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def dying_once(flag: str, value: int) -> Predictor:
    """Takes its process down at a batch that holds `value`, the first time."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any() and not Path(flag).exists():
            Path(flag).touch()
            os._exit(13)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def exiting() -> Predictor:
    """Leaves, as if all were well."""
    sys.exit(0)


def raising() -> Predictor:
    """Does not load."""
    raise RuntimeError("no weights here")


def unpicklable() -> Predictor:
    """Holds a lock, which cannot be pickled."""
    lock = threading.Lock()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        with lock:
            return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def short() -> Predictor:
    """One prediction too few."""
    return lambda batch: np.zeros(len(batch) - 1)


def scalar() -> Predictor:
    """Something that cannot be predictions."""
    return lambda batch: "many"  # noqa: ARG005


def widening() -> Predictor:
    """Whole numbers first, fractions once `x` passes 10."""
    return lambda batch: pd.DataFrame(
        {"y": [v + 0.5 if v > 10 else int(v) for v in batch["x"]]}, dtype=object
    ).infer_objects()


def nothing() -> Predictor:
    """All null."""
    return lambda batch: [None] * len(batch)


def vectors() -> Predictor:
    """A scalar, a vector and a string for each row."""

    def predict(batch: dict[str, Any]) -> dict[str, Any]:
        x = batch["x"]
        return {"score": x.astype("float32"), "vector": np.stack([x, x + 1], axis=1), "label": [f"é{v}" for v in x]}

    return predict


def nested() -> Predictor:
    """A struct for each row, which few databases hold."""
    return lambda batch: pd.DataFrame({"both": [{"a": int(x), "b": None if x else "0"} for x in batch["x"]]})


def poisoned(values: list[int]) -> Predictor:
    """Doubles, and raises for a batch that holds any of `values`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if bad := sorted(set(values) & set(batch["x"])):
            raise ArithmeticError(f"cannot predict {bad[0]}")
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def odd() -> Predictor:
    """A whole number for every row but one."""
    return lambda batch: pd.DataFrame({"y": [v + 0.5 if v == 11 else float(v) for v in batch["x"]]})


def leaving(value: int) -> Predictor:
    """Calls `sys.exit` for one value."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any():
            sys.exit(0)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def deadly(value: int, how: str) -> Predictor:
    """Takes its process down at every batch that holds `value`."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        if (batch["x"] == value).any():
            os._exit(13) if how == "exit" else os.kill(os.getpid(), signal.SIGSEGV)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def hungry(rows: int, value: int = -1, folder: str = "") -> Predictor:
    """Cannot hold more than `rows` rows at once, nor one of `value`; leaves a file for each call, with its rows."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        refused = len(batch) > rows or (batch["x"] == value).any()
        if folder:
            Path(folder, f"{'refused' if refused else 'predicted'}-{len(batch)}-{time.monotonic_ns()}").touch()
        if refused:
            raise MemoryError
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def counting_children() -> Predictor:
    """Predicts its process's number; dies of -1, and refuses 0."""

    def predict(batch: pd.DataFrame) -> list[int]:
        if batch["x"][0] == -1:
            os._exit(7)
        if batch["x"][0] == 0:
            raise ValueError("zero")
        return [os.getpid()] * len(batch)

    return predict


def not_a_number() -> Predictor:
    """NaN for every tenth row."""
    return lambda batch: np.where(batch["x"] % 10 == 3, np.nan, batch["x"] * 1.0)


def returning_none() -> Any:
    """Forgets to return its predictor."""


def loading_slowly(flag: str, seconds: float) -> Predictor:
    """Takes its time to load, and says when it has begun."""
    Path(flag).touch()
    time.sleep(seconds)
    return doubling()


def tracing(folder: str, seconds: float) -> Predictor:
    """Doubles, takes its time, and leaves a file for each load and each call: `what-pid-node-GPUs-begin-end`."""
    import ray

    def trace(what: str, begin: float) -> None:
        node, gpus = ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES")
        Path(folder, f"{what}-{os.getpid()}-{node}-{gpus}-{begin}-{time.time()}").touch()

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        begin = time.time()
        time.sleep(seconds)
        trace("call", begin)
        return pd.DataFrame({"twice": batch["x"] * 2})

    trace("load", time.time())
    return predict


def greedy(bytes_per_row: int) -> Predictor:
    """Doubles, and takes memory for every row of the batch at once, slowly enough to be watched."""

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        held = []
        for _ in range(len(batch) if bytes_per_row else 0):
            held.append(np.ones(bytes_per_row, dtype="uint8"))
            time.sleep(0.005)
        return pd.DataFrame({"twice": batch["x"] * 2})

    return predict


def own_memory() -> int:
    """Bytes that this process holds and no file or shared memory lies behind: what a copy of mapped weights would add to."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(next(line for line in rollup.splitlines() if line.startswith("Anonymous:")).split()[1])


def heavy(megabytes: int) -> Predictor:
    """Weights of half NumPy, half torch, all of which each call reads; predicts the memory that its process has of its own."""
    import torch

    array, tensor = np.ones(megabytes << 16), torch.nn.Parameter(torch.ones(megabytes << 17), requires_grad=False)

    def predict(batch: pd.DataFrame) -> dict[str, list[int]]:
        assert array.mean() == float(tensor.mean()) == 1
        return {"memory": [own_memory()] * len(batch)}

    return predict


class Unpacked:
    """Doubles, and leaves a file for each time it is unpickled."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        Path(self.folder, f"{os.getpid()}-{time.monotonic_ns()}").touch()

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": batch["x"] * 2})


def writing(first: int, kind: str, size: int = 1 << 20) -> Predictor:
    """Adds 1 to its weights from call `first` on: doubles while nobody else's writes reach it, and else predicts -1."""
    import torch

    weights: Any = np.zeros(size) if kind == "numpy" else torch.nn.Parameter(torch.zeros(size), requires_grad=False)
    calls = 0

    def predict(batch: pd.DataFrame) -> pd.DataFrame:
        nonlocal calls
        calls += 1
        if calls >= first:
            weights[:] += 1
        untouched = bool((weights == max(0, calls - first + 1)).all())
        return pd.DataFrame({"twice": batch["x"] * 2 if untouched else -1})

    return predict


def network() -> Any:
    """A torch module with whatever makes sharing hard: tied weights, views, strides, bfloat16, statistics, nothing at all."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.tied = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64, bias=False)
            self.tied.weight = self.one.weight
            self.norm = torch.nn.BatchNorm1d(64)
            self.brief = torch.nn.Parameter(torch.randn(64, 8, dtype=torch.bfloat16).t(), requires_grad=False)
            self.register_buffer("view", self.one.weight.data[8:16])
            self.register_buffer("none", torch.empty(0))
            self.register_buffer("sparse", torch.eye(64).to_sparse())

        def forward(self, x: Any) -> Any:
            hidden = self.norm(self.tied(self.one(x)))
            return (hidden @ self.sparse).to(torch.bfloat16) @ self.brief.t() + x.mean()

    torch.manual_seed(7)
    return Network()


def in_training() -> Predictor:
    """A network whose statistics every call updates; what it predicts depends on its batch alone."""
    import torch

    net = network().train()

    def predict(batch: pd.DataFrame) -> list[float]:
        x = torch.from_numpy(batch["x"].to_numpy(dtype="float32"))
        with torch.no_grad():
            values: list[float] = net(torch.cos(x[:, None] * torch.arange(64))).float().sum(1).tolist()
        return values

    return predict


def segments() -> Predictor:
    """Twice `x`, by one model for odd and one for even numbers: the rows come back group after group, with their labels."""

    def predict(batch: Any) -> pd.DataFrame:
        frame = batch if isinstance(batch, pd.DataFrame) else batch.to_pandas()
        groups = [frame[frame["x"] % 2 == rest] for rest in (1, 0)]
        return pd.concat([pd.DataFrame({"twice": group["x"] * 2}) for group in groups])

    return predict


def relabelled() -> Predictor:
    """Twice `x`, with labels that are not the batch's."""
    return lambda batch: pd.Series((batch["x"] * 2).to_numpy(), index=batch["x"] + 1_000, name="twice").rename_axis(
        None
    )


def reversing() -> Predictor:
    """`reversed`: the column `text` from its end; a text with `poison` in it is refused."""

    def predict(batch: pd.DataFrame) -> dict[str, Any]:
        if batch["text"].str.contains("poison").any():
            raise ValueError("poison")
        return {"reversed": [text[::-1] for text in batch["text"]]}

    return predict


def brightness(column: str = "image", darkest: int = -1, seconds: float = 0.0) -> Predictor:
    """`mean` of the pixels of each picture, and how many dimensions the column has; a darker picture than `darkest` is refused."""

    def predict(batch: Any) -> dict[str, Any]:
        time.sleep(seconds)
        means = [float(np.asarray(each).mean()) for each in batch[column]]
        if any(mean < darkest for mean in means):
            raise ValueError("too dark")
        return {"mean": means, "shape": ["x".join(map(str, np.asarray(each).shape)) for each in batch[column]]}

    return predict


def sizing() -> Predictor:
    """`length`: bytes of the column `bytes`."""
    return lambda batch: {"length": [len(each) for each in batch["bytes"]]}
