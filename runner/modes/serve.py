"""What a process of `mode=processes` runs: `python -m runner.modes.serve PIPE MODEL`. Ends when the pipe is closed."""

from __future__ import annotations

import os
import pickle
import sys
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from runner import apart, weights
from runner.model import Delivered
from runner.process import import_ahead, limit_threads
from runner.vitals import with_vitals

UP = b""  # a process's first message


def serve(pipe: Connection[Any, Any], number: int) -> None:
    """Say `UP`, then answer calls, one after the other."""
    apart.belong_to(os.getppid())
    num_threads, packages = pipe.recv()
    import_ahead(packages)
    limit_threads(num_threads)
    pipe.send_bytes(UP)
    model = Delivered(partial(weights.load, number), num_threads)
    while True:
        try:
            work = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(with_vitals(work.run(model), model)))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
