"""The models that are measured, behind one interface: a dict of NumPy arrays in, an array of predictions out.

Imported by every worker of every program, so what is heavy is imported where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]
    Arrays = dict[str, Array]
    Predict = Callable[[Arrays], Array]

FEATURES = (
    "passenger_count", "trip_distance", "pickup_longitude", "pickup_latitude", "dropoff_longitude", "dropoff_latitude",
    "fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "total_amount",
)  # fmt: skip
LAYERS, WIDTH = 16, 4096  # of `heavy`: 1 GiB
EMBEDDING = 384  # values per text of `minilm`


@dataclass(frozen=True)
class Model:
    """What predicts.

    Attributes:
        columns: Its input.
        batch_size: Rows per call.
        load: Returns it.
        ours: The same as overrides of our command line.
        kind: Of one prediction.
        has_weights: Whether it is worth loading once per worker; if not, it is a function of the batch alone.
    """

    columns: Sequence[str]
    batch_size: int
    load: Callable[[], Predict]
    ours: Sequence[str]
    kind: Literal["bool", "float", "vector"] = "float"
    has_weights: bool = True


@dataclass(frozen=True)
class Torch:
    """A module as a function of a batch of arrays; a class, so that every framework can ship it."""

    module: torch.nn.Module
    inputs: Callable[[Arrays], Any]

    def __call__(self, batch: Arrays) -> Array:
        """Predict one batch: shape `[rows]`, or `[rows, k]` for vectors."""
        import torch

        with torch.inference_mode():
            given = self.inputs(batch)
            found = self.module(**given) if isinstance(given, dict) else self.module(given)
        predictions: Array = found.numpy()
        return predictions[:, 0] if predictions.shape[1] == 1 else predictions


def load_even() -> Predict:
    """Whether the number of passengers is even: next to no work, so that reading dominates."""
    return lambda batch: batch["passenger_count"] % 2 == 0


def small() -> torch.nn.Module:
    """12 features through two hidden layers of 256, with weights that are the same everywhere."""
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(len(FEATURES), 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 256), torch.nn.ReLU(),
        torch.nn.Linear(256, 1),
    )  # fmt: skip


def heavy() -> torch.nn.Module:
    """12 features through 16 hidden layers of 4096: a gigabyte of weights, the same everywhere."""
    import torch

    torch.manual_seed(0)
    with torch.device("meta"):
        hidden = [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()) for _ in range(LAYERS)]
        module = torch.nn.Sequential(torch.nn.Linear(len(FEATURES), WIDTH), *hidden, torch.nn.Linear(WIDTH, 1))
    module = module.to_empty(device="cpu")
    with torch.no_grad():
        for weights in module.parameters():
            bound = (6 / weights.shape[-1]) ** 0.5  # keeps the size of what passes through
            weights.uniform_(-bound, bound)
    return module


def features(batch: Arrays) -> torch.Tensor:
    """The 12 features side by side: shape `[rows, 12]`."""
    import numpy as np
    import torch

    rows = np.stack([batch[name].astype("float32", copy=False) for name in FEATURES], axis=1)
    return torch.from_numpy(rows)


def load_small() -> Predict:
    """The model-bound workload."""
    return Torch(small().eval(), features)


def load_heavy() -> Predict:
    """More weights than work."""
    return Torch(heavy().eval(), features)


def load_minilm() -> Predict:
    """Sentence embeddings."""
    from benchmarks import minilm

    return Torch(minilm.embedder(), minilm.tokens)


def _torch(module: str, columns: Sequence[str], batch_size: int, collate: str | None = None) -> list[str]:
    listed = f"[{','.join(columns)}]"
    inputs = f"model.collate={collate}" if collate else f"model.columns={listed}"
    return [
        "model=torch", f"model.module={module}", inputs, f"predict.columns={listed}", "predict.input=numpy",
        f"batch_size={batch_size}",
    ]  # fmt: skip


EVEN = [
    "model=custom", "model._target_=benchmarks.predictors.load_even", "predict.columns=[passenger_count]",
    "predict.input=numpy",
]  # fmt: skip
MODELS = {
    "even": Model(["passenger_count"], 65_536, load_even, EVEN, "bool", has_weights=False),
    "small": Model(FEATURES, 16_384, load_small, _torch("benchmarks.predictors.small", FEATURES, 16_384)),
    "heavy": Model(FEATURES, 16_384, load_heavy, _torch("benchmarks.predictors.heavy", FEATURES, 16_384)),
    "minilm": Model(
        ["text"], 32, load_minilm,
        _torch("benchmarks.minilm.embedder", ["text"], 32, "benchmarks.minilm.tokens"), "vector",
    ),
}  # fmt: skip
