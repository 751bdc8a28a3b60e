"""What calls the predictor during one call: this process, or a child that ends with the call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from runner.predictor.child import Child
from runner.types import Caller, Model
from runner.worker.care import Care
from runner.worker.trouble import Trouble, in_one_line


@contextlib.contextmanager
def held(model: Model, care: Care) -> Iterator[Caller]:
    """What calls the predictor. The predictor is in a process of its own if something in the shard may kill that process.

    Raises:
        Trouble: It cannot be loaded.
    """
    try:
        caller = Child(model.portable()) if care.alone else model.obtain()
    except Exception as error:
        raise Trouble("model", f"the model cannot be loaded in a worker: {in_one_line(error)}") from error
    try:
        yield caller
    finally:
        if isinstance(caller, Child):
            caller.close()
