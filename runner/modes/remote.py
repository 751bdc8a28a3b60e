"""What Ray's two modes share: they put the model into the object store once, run calls in workers, and read the answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner.errors import Incomplete
from runner.modes.moving import report_rows
from runner.modes.work import perform
from runner.predictor import weights
from runner.predictor.shipping import Delivered
from runner.process.pulse import PULSE
from runner.process.signals import use_default_handlers_in_forks
from runner.process.threads import limit_threads
from runner.types import Answer, Caller, Lost, ModelSource, Setup, Vitals

_delivered: dict[str, Delivered] = {}  # the one model that this worker process holds, by the key of its box


@dataclass(frozen=True)
class Box:
    """The model as it travels.

    The reference lies inside an object, so that Ray does not resolve it for every call but each worker process once.

    Attributes:
        key: Names the model within the session.
        reference: Of the packed model's buffers, as arrays: Ray gives each process views of the one copy in its node's store.
        num_threads: For the worker's native thread pools.
        path: The driver's import path: a loader may lie where only the driver looks.
    """

    key: str
    reference: Any
    num_threads: int
    path: tuple[str, ...]

    def obtain(self) -> Caller:
        """What calls the predictor, which is unpacked or loaded once per worker process."""
        return self._delivered().obtain()

    def portable(self) -> bytes:
        """The model for a child of this worker process, which has no Ray."""
        return self._delivered().portable()

    def vitals(self) -> Vitals:
        """How this worker process bears the model."""
        return self._delivered().vitals()

    def _delivered(self) -> Delivered:
        if self.key not in _delivered:
            _delivered.clear()  # another job of the sweep is over
            _delivered[self.key] = Delivered(self._arrive, self.num_threads)
        return _delivered[self.key]

    def _arrive(self) -> weights.Parcel:
        import ray

        return weights.adopt(ray.get(self.reference))


def box(model: ModelSource, setup: Setup) -> Box:
    """Put the model, or its loader, into the object store once.

    Raises:
        ConfigError: It cannot be pickled.
        Incomplete: There is no room for it.
    """
    import numpy as np
    import ray

    parcel = model.packed()
    try:
        reference = ray.put([np.frombuffer(buffer, np.uint8) for buffer in parcel.buffers])
    except ray.exceptions.RayError as error:
        raise Incomplete(
            f"ray: the model ({parcel.size:,} bytes) cannot be put into the object store: {error}"
        ) from error
    return Box(reference.hex(), reference, setup.num_threads, tuple(sys.path))


def execute(model: Box, work: bytes, ticket: int) -> Answer:
    """Execute one call in this worker process."""
    sys.path.extend(entry for entry in model.path if entry not in sys.path)
    limit_threads(model.num_threads)
    PULSE.begin(partial(report_rows, model.key, ticket))
    use_default_handlers_in_forks()  # Ray has a handler of its own for SIGTERM, and blocks SIGINT
    return perform(work, model)


def result_of(reference: Any) -> Answer | Lost:
    """The answer of a finished call, or `Lost` with the reason if its worker died."""
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
    """Whether Ray's memory monitor killed the worker."""
    return isinstance(result, Lost) and result.memory


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no details'}"
