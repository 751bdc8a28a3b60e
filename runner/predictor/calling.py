"""From a predictor as its loader returned it to what a worker calls: this is the one place that knows a predictor's optional parts.

A plain function of a batch is all that a predictor needs to be. It may have a method `prepare`, it may be `async`, and then it may have
a number `concurrency`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.process.event_loop import event_loop
from runner.process.signals import raise_from_user_code
from runner.types import Predictor, Raised


def go_on() -> None:
    """Nothing keeps the predictor from being called."""


@dataclass(frozen=True)
class LocalCaller:
    """Calls a predictor in this process.

    Attributes:
        predictor: As its loader returned it.
        before: Is called before the predictor, and raises what ends the job.
    """

    predictor: Predictor
    before: Callable[[], object] = go_on

    @cached_property
    def _is_async(self) -> bool:
        return is_async(self.predictor)

    @property
    def concurrency(self) -> int:
        """How many batches the predictor may be given at once; only an `async` one is given several."""
        return int(getattr(self.predictor, "concurrency", 1)) if self._is_async else 1

    @property
    def columns(self) -> list[str] | None:
        """The columns that the predictor says it wants, if it does."""
        columns = getattr(self.predictor, "columns", None)
        return columns if isinstance(columns, list) else None

    def __call__(self, batches: Sequence[Any]) -> list[Any]:
        """For each batch what the predictor returned, or a `Raised`.

        Raises:
            KeyboardInterrupt: The job was told to stop at once.
        """
        self.before()
        prepared = [self._prepared(batch) for batch in batches]
        if self._is_async:
            return [_as_error(each) for each in event_loop().run(self._together(prepared))]
        return [_as_error(each if isinstance(each, Raised) else _tried(self.predictor, each)) for each in prepared]

    def _prepared(self, batch: Any) -> Any:
        prepare = getattr(self.predictor, "prepare", None)
        return batch if prepare is None else _tried(prepare, batch)

    async def _together(self, prepared: Sequence[Any]) -> list[Any]:
        import asyncio

        return list(await asyncio.gather(*map(self._awaited, prepared)))

    async def _awaited(self, prepared: Any) -> Any:
        """What the predictor returned. Nothing is raised here: it would end the loop, or the batches beside this one."""
        if isinstance(prepared, Raised):
            return prepared
        try:
            return await self.predictor(prepared)
        except BaseException as error:
            return Raised(error)


def is_async(call: Callable[..., Any]) -> bool:
    """Whether a predictor is an `async` function, or an object whose `__call__` is one."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__)


def _tried(call: Callable[[Any], Any], value: Any) -> Any:
    try:
        return call(value)
    except BaseException as error:
        return Raised(error)


def _as_error(outcome: Any) -> Any:
    """The same; what would have ended this process, such as `sys.exit`, as an error of the predictor.

    Raises:
        KeyboardInterrupt: A signal came.
    """
    if not isinstance(outcome, Raised):
        return outcome
    try:
        raise_from_user_code(outcome.error, "the predictor")
    except Exception as error:
        return Raised(error)


def refuse_wrong_parts(predictor: Predictor) -> None:
    """Refuse optional parts that are not what they must be.

    Raises:
        TypeError: `prepare` is no plain function, or `concurrency` no number of at least 1.
    """
    prepare = getattr(predictor, "prepare", None)
    if prepare is not None and (not callable(prepare) or is_async(prepare)):
        kind = "is async" if callable(prepare) else f"is {prepare!r:.60}"
        raise TypeError(f"the predictor's `prepare` {kind}; expected a plain method that takes a batch")
    count = getattr(predictor, "concurrency", 1) if is_async(predictor) else 1
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise TypeError(f"the predictor's `concurrency` is {count!r:.60}; expected a whole number of at least 1")
