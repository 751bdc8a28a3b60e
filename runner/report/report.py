"""`Report`: what a run did, as an object in Python and as `report.json` in the sink."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import Incomplete, Interrupted, TooManyBadRows
from runner.types import Failure, Stages, Vitals
from runner.words import exceptions
from runner.words.secrets import hidden

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Status = Literal["running", "complete", "incomplete", "failed", "interrupted"]


@dataclass(frozen=True)
class Problem:
    """Why a run did not complete.

    Attributes:
        kind: The kind of the failure that ended it, else the name of the error's type.
        message: What was shown to people.
        details: The traceback.
    """

    kind: str
    message: str
    details: str = ""


@dataclass
class Report:
    """What a run did.

    Attributes:
        run_id: Names the run under `_runner/runs/`.
        status: How it ended.
        exit_code: 0 complete, 1 failed, 75 incomplete, 128 + signal.
        sink: Where the output is.
        shards: Planned, over all plans of the sink.
        committed: Shards committed by this run.
        committed_before: Shards that were there already.
        rows_in: Rows read by this run, after filters.
        rows_out: Rows predicted by this run.
        rows_quarantined: Rows put aside by this run.
        bytes_in: Stored size of the shards committed by this run.
        bytes_out: Size of their parts.
        seconds: Wall time of the whole run.
        predicting_seconds: Wall time from the first call to the last answer, plus what the first batch took.
        stages: Worker seconds per stage, summed over workers.
        wait: Worker seconds in which a worker had nothing to do.
        workers: Worker processes that committed something.
        threads: In each worker's native pools.
        ray_seconds: Wall time that starting a private Ray took.
        vitals: The worst of any worker: most memory, slowest load.
        retries: Tries after transient storage errors.
        lost_workers: Workers that died.
        failures: Shards that failed for good.
        notes: What people should know: skipped, uncovered, accepted.
        next_command: What to run next, if there is something.
        error: Why the run did not complete.
        started: When, in UTC.
        ended: When, in UTC.
        host: That the driver ran on.
        command: What does the same again.
        config: Resolved, without secrets.
    """

    run_id: str
    sink: str
    status: Status = "complete"
    exit_code: int = 0
    shards: int = 0
    committed: int = 0
    committed_before: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rows_quarantined: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    predicting_seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)
    wait: float = 0.0
    workers: int = 0
    threads: int = 1
    vitals: Vitals = field(default_factory=Vitals)
    ray_seconds: float = 0.0
    retries: int = 0
    lost_workers: int = 0
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next_command: str | None = None
    error: Problem | None = None
    started: str = ""
    ended: str = ""
    host: str = ""
    command: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Begin without a way to the rows; `runner.run` gives one."""
        self.output: Callable[[], pa.Table] | None = None

    def to_arrow(self) -> pa.Table:
        """All rows of the sink, in the order of the input, as an Arrow table.

        Raises:
            RuntimeError: The report does not come from `runner.run`.
        """
        if self.output is None:
            raise RuntimeError("only a report that runner.run returns can read the predictions; read the sink's files")
        return self.output()

    def to_pandas(self) -> pd.DataFrame:
        """All rows of the sink, in the order of the input, as a DataFrame."""
        return self.to_arrow().to_pandas()

    def to_json(self) -> bytes:
        """All of it, for programs."""
        content = asdict(self)
        content["stages"] = self.stages._asdict()
        return json.dumps(hidden(content), indent=1, default=str).encode()

    @property
    def remaining(self) -> int:
        """Shards that are still to be predicted."""
        return self.shards - self.committed - self.committed_before


def ended(report: Report, error: BaseException | None, when: str) -> None:
    """Write into the report how the run ended: with which error, if any, and when."""
    report.ended = when
    if error is None:
        return
    code = getattr(error, "exit_code", None)
    stopped = isinstance(error, Interrupted | KeyboardInterrupt)
    report.exit_code = code if code is not None else 130 if stopped else 1
    report.status = "interrupted" if stopped else "incomplete" if report.exit_code == Incomplete.exit_code else "failed"
    report.next_command = None if isinstance(error, TooManyBadRows) else report.command
    details = getattr(error, "details", "") or exceptions.full_traceback(error)
    report.error = Problem(getattr(error, "kind", "") or type(error).__name__, str(error), details)
