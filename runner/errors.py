"""What can go wrong, and the exit code each one ends in.

    RunnerError                 anything this package raises on purpose
    ├── ConfigError         2   the config, or the data it names, is wrong: nothing was run
    ├── SinkRefused         2   the sink holds something this job must not touch
    ├── JobFailed           1   a rerun would fail the same way: data or model
    │   └── TooManyBadRows  1   or a budget: then mending the model and running the same command again does not help
    ├── Incomplete         75   a rerun may finish it: storage, lost workers, a cluster too small
    └── Interrupted       130   a signal stopped the job; it drained and can be resumed

Messages name the key, the value, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runner.words.secrets import hide


class RunnerError(Exception):
    """Base of everything this package raises on purpose.

    Attributes:
        kind: The kind of failure of the shard that it is about, if there is one.
        details: The traceback from the process in which it happened, if that was another one.
        report: What the run did before it ended so: a `runner.Report`. `None` before a run has begun.
    """

    exit_code = 1
    kind = ""
    details = ""
    report: Any = None

    def __init__(self, message: str = "", *, details: str = "") -> None:
        """Take the message for people, and the whole traceback of the cause, for the record."""
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        """The message without credentials, since it may quote an error of somebody else's code."""
        return hide(super().__str__())

    def __repr__(self) -> str:
        """The same, with the type."""
        return f"{type(self).__name__}({str(self)!r})"


class ConfigError(RunnerError):
    """The config is wrong; every problem that was found is in `problems`."""

    exit_code = 2

    def __init__(self, problems: Sequence[str] | str) -> None:
        """Take one problem or all of them."""
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Pickle by the problems, not by the joined text."""
        return type(self), (self.problems,)


class SinkRefused(RunnerError):
    """The sink holds another job's output, or files that are not ours."""

    exit_code = 2


class JobFailed(RunnerError):
    """The job failed in a way that a rerun would repeat."""

    exit_code = 1


class TooManyBadRows(JobFailed):
    """More rows are in quarantine than are allowed: they stay there, so the same command fails again."""


class Incomplete(RunnerError):
    """The job could not finish now; the same command may finish it later."""

    exit_code = 75


class Interrupted(RunnerError):
    """A signal stopped the job after in-flight shards were committed."""

    def __init__(self, signal_number: int) -> None:
        """Take the signal: the exit code is 128 plus its number."""
        self.exit_code = 128 + signal_number
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")


class Told(Exception):
    """The traceback of what led to an error, without the credentials that the original quotes."""


class NothingToDo(Exception):
    """No worker is needed, because no shard is pending. `runner.job` raises it and catches it again; no user ever sees it.

    It is an exception because it is found out inside of a mode's `open`, where the model is about to be loaded: `open` of any mode,
    also of one that somebody else wrote, ends there without knowing why.
    """


WORST_FIRST = (2, 1, 75)


def worst(codes: Sequence[int]) -> int:
    """The exit code of a sweep: an interruption ends it, else the worst in the order 2, 1, 75."""
    if interruptions := [code for code in codes if code > 128]:
        return interruptions[0]
    return next((code for code in WORST_FIRST if code in codes), 0)
