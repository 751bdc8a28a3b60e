"""Batch prediction on Ray Core: declarative YAML in, exactly-once predictions out.

`run` and `plan` take a job as a dict or a YAML file with the keys of the command line; `python -m runner` is a thin layer
over the same.
"""

from __future__ import annotations

from runner.api import plan, run
from runner.config import allowed as allowed  # the list is read before anything else
from runner.errors import ConfigError, Incomplete, Interrupted, JobFailed, RunnerError, SinkRefused
from runner.report.report import Report
from runner.types import Rejected

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Incomplete",
    "Interrupted",
    "JobFailed",
    "Rejected",
    "Report",
    "RunnerError",
    "SinkRefused",
    "__version__",
    "plan",
    "run",
]
