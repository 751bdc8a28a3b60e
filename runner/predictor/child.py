"""A predictor in a process of its own, so that a row that kills it takes nothing else along.

Used for a shard that has cost workers: the process that dies is then this child, and the batch that killed it is bisected like
any other that fails.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from runner.process import apart, program
from runner.process.signals import raise_as_error
from runner.types import Predictor
from runner.words import exceptions
from runner.words.secrets import known, learn


class ProcessDied(Exception):
    """The predictor took its process down."""


class Unloadable(Exception):
    """The loader failed there: no row is to blame."""


class Child:
    """A predictor that runs in a child process; a new one is started after each death."""

    def __init__(self, portable: bytes) -> None:
        """Take the pickled pair of (is it a loader, loader or predictor)."""
        self._portable = portable
        self._apart: apart.Apart | None = None

    def __call__(self, batch: Any) -> Any:
        """Predict there.

        Raises:
            ProcessDied: The child died of this batch.
            Unloadable: The model cannot be loaded there.
            RuntimeError: What the predictor raised, in words.
        """
        return self._answer(self._apart or self._started(), pickle.dumps(batch))

    def _started(self) -> apart.Apart:
        child = self._apart = apart.start("runner.predictor.child")
        try:
            self._answer(child, pickle.dumps(known()), self._portable)
        except ProcessDied:
            raise
        except Exception as error:
            self.close()
            raise Unloadable(f"the model cannot be loaded in a worker: {exceptions.told(error)}") from error
        return child

    def _answer(self, child: apart.Apart, *messages: bytes) -> Any:
        try:
            for message in messages:
                child.pipe.send_bytes(message)
            kind, value, told = pickle.loads(child.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._apart = None
            # Not "from" the broken pipe, which would look like trouble with a network.
            raise ProcessDied(f"the predictor's process {child.obituary()}") from None
        if kind == "raised":
            exceptions.keep(value, told)
            raise value
        return value

    def close(self) -> None:
        """End the child."""
        if self._apart is not None:
            self._apart.stop()
            self._apart = None


def serve(pipe: Connection[Any, Any]) -> None:
    """The child's life: what no text may hold and the model first, then batches until the pipe is closed."""
    apart.belong_to(os.getppid())
    learn(pickle.loads(pipe.recv_bytes()))
    portable, predictors = pipe.recv_bytes(), list[Predictor]()
    pipe.send_bytes(_answer(lambda: predictors.append(_obtained(portable))))
    while True:
        try:
            batch = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(_answer(partial(_predicted, predictors[0], batch)))


def _obtained(portable: bytes) -> Predictor:
    is_loader, held = pickle.loads(portable)
    predictor: Predictor = held() if is_loader else held
    return predictor


def _answer(act: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps(("done", act(), None))
    except Exception as error:
        return _pickled(error)


def _predicted(predictor: Predictor, batch: Any) -> Any:
    try:
        return predictor(batch)
    except BaseException as error:
        raise_as_error(error, "the predictor")


def _pickled(error: Exception) -> bytes:
    """The error itself if it survives pickling, else its words: many exceptions do not. Its traceback goes as text."""
    place = exceptions.where(error), exceptions.whole(error)
    try:
        pickle.loads(packed := pickle.dumps(("raised", error, place)))
    except Exception:
        return pickle.dumps(("raised", RuntimeError(exceptions.told(error)), place))
    return packed


if __name__ == "__main__":
    program.begin()
    serve(apart.inherited()[0])
