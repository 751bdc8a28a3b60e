"""A predictor in a process of its own, so that a row that kills it takes nothing else along.

Used for a shard that has cost workers: the process that dies is then this child, and the batch that killed it is bisected like
any other that fails.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any

from runner.types import Predictor


class ProcessDied(Exception):
    """The predictor took its process down."""


class Child:
    """A predictor that runs in a child process; a new one is started after each death."""

    def __init__(self, portable: bytes) -> None:
        """Take the pickled pair of (is it a loader, loader or predictor)."""
        self._portable = portable
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __call__(self, batch: Any) -> Any:
        """Predict there.

        Raises:
            ProcessDied: The child died of this batch.
            RuntimeError: What the predictor raised, in words.
        """
        pipe = self._started()
        try:
            pipe.send_bytes(pickle.dumps(batch))
            answer: tuple[str, Any] = pickle.loads(pipe.recv_bytes())
        except (EOFError, ConnectionError) as gone:
            raise ProcessDied(self._obituary()) from gone
        kind, value = answer
        if kind == "raised":
            raise value
        return value

    def _started(self) -> Connection[Any, Any]:
        if self._pipe is None:
            self._pipe, theirs = Pipe()
            command = [sys.executable, "-m", "runner.child", str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
            theirs.close()
            self._pipe.send_bytes(self._portable)
        return self._pipe

    def _obituary(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._forget()
        return f"the predictor's process died of signal {signal.Signals(-code).name}" if code < 0 else (
            f"the predictor's process left with exit code {code}"
        )  # fmt: skip

    def _forget(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._pipe = self._process = None

    def close(self) -> None:
        """End the child."""
        process = self._process
        self._forget()
        if process is not None:
            process.kill()
            process.wait()


def serve(pipe: Connection[Any, Any]) -> None:
    """The child's life: the model first, then batches until the pipe is closed."""
    is_loader, held = pickle.loads(pipe.recv_bytes())
    predictor: Predictor = held() if is_loader else held
    while True:
        try:
            batch = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(_answer(predictor, batch))


def _answer(predictor: Predictor, batch: Any) -> bytes:
    try:
        return pickle.dumps(("predicted", predictor(batch)))
    except SystemExit as left:
        return pickle.dumps(("raised", RuntimeError(f"the predictor called sys.exit({left.code})")))
    except Exception as error:
        return _pickled(error)


def _pickled(error: Exception) -> bytes:
    """The error itself if it survives pickling, else its words: many exceptions do not."""
    try:
        pickle.loads(packed := pickle.dumps(("raised", error)))
    except Exception:
        return pickle.dumps(("raised", RuntimeError(f"{type(error).__name__}: {error}")))
    return packed


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
