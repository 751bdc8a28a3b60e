"""What goes wrong in a worker, as a value that reaches the driver: it is never an exception that escapes."""

from __future__ import annotations

from runner.arrow.schemas import BadPredictions, DoesNotFit
from runner.errors import ConfigError
from runner.storage.transience import is_of_storage, is_transient
from runner.types import Failure, FailureKind, Shard
from runner.words import exceptions


class Trouble(Exception):
    """A failure on its way out of the generators that stream. Its text is what people are shown."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        """Say what kind of failure, and what to show."""
        super().__init__(message)
        self.kind: FailureKind = kind


def in_one_line(error: BaseException) -> str:
    """An error in one line, without credentials; before the text of an error that is not ours stands its type."""
    if isinstance(error, BadPredictions | DoesNotFit | ConfigError):
        return exceptions.clipped(str(error))
    return exceptions.describe(error)


def failure_of(shard: Shard, error: Exception, part: str = "") -> Failure:
    """What the driver is told of a shard that failed.

    Args:
        shard: The one.
        error: What was raised.
        part: The path of its part, where writing it raised the error.
    """
    error = next((each for each in exceptions.led_to(error, hidden=True) if isinstance(each, Trouble)), error)
    if isinstance(error, Trouble):
        cause = error.__cause__ or error
        return Failure(
            shard.id, error.kind, str(error), exceptions.full_traceback(cause), exceptions.user_frames(cause)
        )
    what = f"{part or shard.name} cannot be written: {in_one_line(error)}"
    return Failure(shard.id, _kind(error), what, exceptions.full_traceback(error), exceptions.user_frames(error))


def _kind(error: Exception) -> FailureKind:
    """Of what writing a part raised. An error that is not of the storage comes of a value that the format will never hold."""
    if isinstance(error, MemoryError):
        return "memory"
    if is_transient(error):
        return "transient"
    return "storage" if is_of_storage(error) else "data"
