"""What a process of `mode=processes` runs: `python -m runner.modes.serve PIPE MODEL`. Ends when the pipe is closed."""

from __future__ import annotations

import contextlib
import os
import pickle
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from runner.modes.work import perform
from runner.predictor import weights
from runner.predictor.shipping import Delivered
from runner.process import children, program
from runner.process.pulse import PULSE
from runner.process.threads import import_ahead, limit_threads

UP = b""  # the first message of a process: it is up
ROWS = b"rows "  # begins a message with the rows of a call so far; no pickle begins so


def serve(pipe: Connection[Any, Any], number: int) -> None:
    """Say `UP`, then answer calls, one after the other.

    Raises:
        EOFError, ConnectionError: Nobody is at the other end any more.
    """
    children.end_with_parent(os.getppid())
    num_threads, packages = pipe.recv()
    import_ahead(packages)
    limit_threads(num_threads)
    pipe.send_bytes(UP)
    model = Delivered(partial(weights.load, number), num_threads)
    while True:
        work = pipe.recv_bytes()
        PULSE.begin(lambda rows: pipe.send_bytes(ROWS + str(rows).encode()))
        pipe.send_bytes(pickle.dumps(perform(work, model)))


if __name__ == "__main__":
    program.begin()
    pipe, [model] = children.inherited_pipe_and_files()
    with contextlib.suppress(EOFError, ConnectionError):  # whoever started this process needs it no more
        serve(pipe, model)
