"""What a process of `mode=processes` runs: `python -m runner.modes.serve PIPE MODEL`. Ends when the pipe is closed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from runner import apart, weights
from runner.types import Predictor
from runner.worker import limit_threads


class Mapped:
    """The model of the file that this process inherited, mapped and, if it is a loader, loaded at first use."""

    def __init__(self, number: int, num_threads: int) -> None:
        """Take the number of the open file, and the threads for native pools."""
        self._number, self._num_threads = number, num_threads
        self._predictor: Predictor | None = None

    def obtain(self) -> Predictor:
        """The predictor."""
        if self._predictor is None:
            is_loader, held = self._held()
            self._predictor = held() if is_loader else held
            limit_threads(self._num_threads)  # once more: the model may have brought native libraries of its own
        return self._predictor

    def portable(self) -> bytes:
        """For a child of this process."""
        import cloudpickle

        packed: bytes = cloudpickle.dumps(self._held())
        return packed

    def _held(self) -> tuple[bool, Callable[..., Any]]:
        held: tuple[bool, Callable[..., Any]] = weights.load(self._number)
        return held


def serve(pipe: Connection[Any, Any], number: int) -> None:
    """Answer calls, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    apart.end_with(os.getppid())
    num_threads = pipe.recv()
    limit_threads(num_threads)
    model = Mapped(number, num_threads)
    while True:
        try:
            work = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(work.run(model)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
