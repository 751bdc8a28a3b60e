"""What Ray's two modes share: shipping the model once, the code in the remote process, reading what comes back."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from runner.errors import ConfigError
from runner.model import ModelSource
from runner.types import Answer, Lost, Predictor, Setup, Work
from runner.worker import limit_threads

_models: dict[str, Predictor] = {}  # the one model that this worker process holds, by the key of its box


@dataclass(frozen=True)
class Box:
    """The model as it travels.

    The reference lies inside an object, so that Ray does not resolve it for every call but each worker process once.

    Attributes:
        key: Names the model within the session.
        reference: Of the predictor, or of the loader to be called in each worker process.
        holds_loader: Which of the two.
        num_threads: For the worker's native thread pools.
        path: The driver's import path: a loader may lie where only the driver looks.
    """

    key: str
    reference: Any
    holds_loader: bool
    num_threads: int
    path: tuple[str, ...]

    def obtain(self) -> Predictor:
        """The predictor, fetched or loaded once per worker process."""
        import ray

        if self.key not in _models:
            _models.clear()  # another job of the sweep is over
            shipped = ray.get(self.reference)
            _models[self.key] = shipped() if self.holds_loader else shipped
            limit_threads(self.num_threads)  # once more: the model may have brought native libraries of its own
        return _models[self.key]

    def portable(self) -> bytes:
        """For a child of this worker process, which has no Ray."""
        import ray
        from ray import cloudpickle

        packed: bytes = cloudpickle.dumps((self.holds_loader, ray.get(self.reference)))
        return packed


def box(model: ModelSource, setup: Setup) -> Box:
    """Put the model, or its loader, into the object store once.

    Raises:
        ConfigError: It cannot be pickled.
    """
    import ray

    value = model.obtain() if model.on_driver else model.load
    try:
        reference = ray.put(value)
    except Exception as error:
        remedy = "take predict.load_on=worker" if model.on_driver else "give plain values as the loader's arguments"
        reason = next(iter(str(error.__cause__ or error).splitlines()), "")
        raise ConfigError(
            f"predict.load_on: the model cannot be pickled to reach the workers ({reason}); {remedy}"
        ) from error
    return Box(reference.hex(), reference, not model.on_driver, setup.num_threads, tuple(sys.path))


def execute(model: Box, work: Work) -> Answer:
    """Do one call's work in this worker process."""
    sys.path.extend(entry for entry in model.path if entry not in sys.path)
    limit_threads(model.num_threads)
    return work.run(model)


def result_of(reference: Any) -> Answer | Lost:
    """What a finished call returned, or why its worker is gone."""
    import ray

    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.ActorUnavailableError as unreachable:
        return Lost(_line(unreachable), counted=False)
    except ray.exceptions.OutOfMemoryError as killed:
        return Lost(_line(killed), memory=True)
    except (ray.exceptions.RayError, SystemExit) as lost:
        return Lost(_line(lost))
    return answer


def killed_for_memory(result: Answer | Lost) -> bool:
    """Whether Ray's memory monitor took the worker."""
    return isinstance(result, Lost) and result.memory


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
