"""A predictor in a process of its own, so that a row that kills it takes nothing else along.

Used for a shard that has cost workers: the process that dies is then this child, and the batch that killed it is bisected like
any other that fails.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from runner.predictor.calling import LocalCaller
from runner.process import children, program
from runner.types import Raised, Rejected
from runner.words import exceptions
from runner.words.secrets import known, learn


class ProcessDied(Exception):
    """The predictor took its process down."""


class Unloadable(Exception):
    """The loader failed there: no row is to blame."""


class Child:
    """Calls a predictor in a child process; a new one is started after each death."""

    columns = None  # what the predictor says it wants is not asked for there

    def __init__(self, portable: bytes) -> None:
        """Take the pickled pair of (is it a loader, loader or predictor)."""
        self._portable = portable
        self._child: children.Child | None = None
        self._concurrency = 1

    @property
    def concurrency(self) -> int:
        """How many batches the predictor may be given at once; this is known once it is loaded there.

        Raises:
            ProcessDied: The child died of loading it.
            Unloadable: It cannot be loaded there.
        """
        self._running()
        return self._concurrency

    def __call__(self, batches: Sequence[Any]) -> list[Any]:
        """For each batch what the predictor returned there, or a `Raised`: with its error, or where that cannot travel with its words.

        Raises:
            ProcessDied: The child died of these batches.
            Unloadable: The model cannot be loaded there.
        """
        return [_unpacked(each) for each in self._answer(self._running(), pickle.dumps(batches))]

    def _running(self) -> children.Child:
        if self._child is not None:
            return self._child
        child = self._child = children.start("runner.predictor.child")
        [packed] = self._answer(child, pickle.dumps(known()), self._portable)
        found = _unpacked(packed)
        if isinstance(found, Raised):
            self.close()
            raise Unloadable(
                f"the model cannot be loaded in a worker: {exceptions.describe(found.error)}"
            ) from found.error
        self._concurrency = found
        return child

    def _answer(self, child: children.Child, *messages: bytes) -> list[bytes]:
        try:
            for message in messages:
                child.pipe.send_bytes(message)
            answer: list[bytes] = pickle.loads(child.pipe.recv_bytes())
        except (EOFError, ConnectionError):
            self._child = None
            # Not "from" the broken pipe, which would look like trouble with a network.
            raise ProcessDied(f"the predictor's process {child.wait_and_describe_end()}") from None
        return answer

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.stop()
            self._child = None


def serve(pipe: Connection[Any, Any]) -> None:
    """The child's life: credentials that no text may hold and the model come first, then batches until the pipe is closed."""
    children.end_with_parent(os.getppid())
    learn(pickle.loads(pipe.recv_bytes()))
    caller = _obtained(pipe.recv_bytes())
    pipe.send_bytes(pickle.dumps([_packed(caller if isinstance(caller, Raised) else caller.concurrency)]))
    while not isinstance(caller, Raised):
        try:
            batches = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps([*map(_packed, caller(batches))]))


def _obtained(portable: bytes) -> LocalCaller | Raised:
    try:
        is_loader, held = pickle.loads(portable)
        return LocalCaller(held() if is_loader else held)
    except Exception as error:
        return Raised(error)


# ---------------------------------------------------------------- what came of one batch, on its way back


def _packed(outcome: Any) -> bytes:
    """Each outcome is pickled by itself: one that cannot be pickled is an error of its own batch."""
    try:
        return pickle.dumps(_travelling(outcome))
    except Exception as error:
        return pickle.dumps(_travelling(Raised(error)))


def _travelling(outcome: Any) -> Any:
    if isinstance(outcome, Raised):
        return Raised(_portable(outcome.error)), (
            exceptions.user_frames(outcome.error),
            exceptions.full_traceback(outcome.error),
        )
    if isinstance(outcome, Rejected) and isinstance(outcome.errors, Mapping):
        outcome = replace(outcome, errors={row: _portable(error) for row, error in outcome.errors.items()})
    return outcome, None


def _portable(error: Any) -> Any:
    """The error itself if it survives pickling, else its words: many exceptions do not."""
    if not isinstance(error, BaseException):
        return error
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(exceptions.describe(error))
    return error


def _unpacked(packed: bytes) -> Any:
    """The outcome; a traceback has travelled as text."""
    outcome, place = pickle.loads(packed)
    if isinstance(outcome, Raised):
        exceptions.attach_remote_traceback(outcome.error, place)
    return outcome


if __name__ == "__main__":
    program.begin()
    serve(children.inherited_pipe_and_files()[0])
