"""What a run, a preview and a verification share: they open the ledger, survey the input, and translate storage errors."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from runner.driver.job import Job
from runner.driver.survey import Survey, find_work
from runner.errors import ConfigError, Incomplete, RunnerError, SinkRefused
from runner.ledger.admission import refuse
from runner.ledger.ledger import Ledger
from runner.process.signals import Signals
from runner.storage.locations import is_local
from runner.storage.transience import is_of_storage, is_transient
from runner.types import Setup
from runner.words.exceptions import describe

FRAMEWORKS = ("pandas", "torch", "sklearn", "transformers", "onnxruntime", "xgboost", "lightgbm", "jax", "tensorflow")


def open_ledger(job: Job, run_id: str) -> Ledger:
    """Read the sink's records, and refuse a sink that this job must not touch.

    Raises:
        SinkRefused: It holds something else, or cannot be read.
        Incomplete: It cannot be read now.
    """
    with storage_errors(f"{job.sink.records.place}", SinkRefused):
        ledger = Ledger(job.sink, run_id)
        refuse(ledger, job.fields, job.sink.save_mode, job.accepted)
    return ledger


def survey_of(job: Job, ledger: Ledger) -> Survey:
    """List the input and hold it against the recorded plans.

    Raises:
        ConfigError: The input cannot be used.
        Incomplete: It cannot be used now.
    """
    with storage_errors("source", ConfigError):
        return find_work(job, ledger)


@contextlib.contextmanager
def storage_errors(what: str, refusal: type[RunnerError]) -> Iterator[None]:
    """Translate storage errors: to `Incomplete` where a later try may succeed, else to `refusal`. The message begins with `what`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunnerError) or not is_of_storage(error):
            raise
        kind = Incomplete if is_transient(error) else refusal
        raise kind(f"{what}: cannot be used: {describe(error)}") from error


@contextlib.contextmanager
def reading(job: Job) -> Iterator[None]:
    """Hold the source open while its inputs are listed and read, as it asks for.

    Raises:
        ConfigError: It cannot be used.
        Incomplete: It cannot be used now.
    """
    with contextlib.ExitStack() as stack:
        with storage_errors("source", ConfigError):
            stack.enter_context(job.source.reading())
        yield


def setup_of(job: Job, say: Callable[[str], None], signals: Signals) -> Setup:
    """What a mode is told of the job beside the model."""
    path = job.sink.records.root
    given = job.sink_path or ""
    relative = (given or path) if is_local(path) and not given.startswith(("/", "file:", "~")) else None
    return Setup(job.resources, job.ray, job.num_threads, relative, say, signals, _packages(job))


def _packages(job: Job) -> tuple[str, ...]:
    """What workers import ahead of their first batch: packages that the config names, or that the loader's module has imported."""
    named = {job.predict.input, *job.model.target.split(".")}
    return ("pyarrow.parquet", *(name for name in FRAMEWORKS if name in named or name in sys.modules))
