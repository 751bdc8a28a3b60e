"""A call on its way to a worker: the driver pickles it, and our own code in the worker unpickles and executes it."""

from __future__ import annotations

import pickle

from runner.predictor.vitals import with_vitals
from runner.types import Answer, Failure, FailureKind, Model, Work
from runner.words import exceptions

REMEDY = "the code of a source or a sink must be importable in every worker (on a cluster: ray.runtime_env, or PYTHONPATH on the nodes)"


def packed(work: Work) -> bytes:
    """A call as bytes. Classes and functions that were defined in a notebook or a script travel in them."""
    import cloudpickle

    return bytes(cloudpickle.dumps(work))


def perform(content: bytes, model: Model) -> Answer:
    """Do what a call asks for, in a worker.

    It is unpickled here, and not by Ray: Ray does that before any code of ours could say where modules lie, and would take a module
    that is not found for a lost worker.
    """
    try:
        work: Work = pickle.loads(content)
    except Exception as error:
        what = f"a worker cannot unpickle its work: {exceptions.describe(error)}; {REMEDY}"
        kind: FailureKind = "memory" if isinstance(error, MemoryError) else "model"
        return Failure("", kind, what, exceptions.full_traceback(error), exceptions.user_frames(error))
    return with_vitals(work.run(model), model)
