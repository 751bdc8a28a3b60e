"""How every action begins: the sink's records are read, the input is looked at, and errors of a storage are told as such."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from runner.driver.job import Job
from runner.driver.survey import Survey, look
from runner.errors import ConfigError, Incomplete, RunnerError, SinkRefused
from runner.ledger.admission import refuse
from runner.ledger.ledger import Ledger
from runner.process.signals import Signals
from runner.storage.locations import is_local
from runner.storage.transience import is_of_storage, is_transient
from runner.types import Setup
from runner.words.exceptions import told

FRAMEWORKS = ("pandas", "torch", "sklearn", "transformers", "onnxruntime", "xgboost", "lightgbm", "jax", "tensorflow")


def open_ledger(job: Job, run_id: str) -> Ledger:
    """Read the sink's records, and refuse a sink that this job must not touch.

    Raises:
        SinkRefused: It holds something else, or cannot be read.
        Incomplete: It cannot be read now.
    """
    with telling(f"sink.path={job.sink.store.root}", SinkRefused):
        ledger = Ledger(job.sink, run_id)
        refuse(ledger, job.fields, job.sink.save_mode, job.accepted)
    return ledger


def survey_of(job: Job, ledger: Ledger) -> Survey:
    """What there is to do.

    Raises:
        ConfigError: The input cannot be used.
        Incomplete: It cannot be used now.
    """
    with telling("source", ConfigError):
        return look(job, ledger)


@contextlib.contextmanager
def telling(what: str, refusal: type[RunnerError]) -> Iterator[None]:
    """Errors of a storage, told with what it is used for: `Incomplete` where a later try may not meet them."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RunnerError) or not is_of_storage(error):
            raise
        kind = Incomplete if is_transient(error) else refusal
        raise kind(f"{what}: cannot be used: {told(error)}") from error


@contextlib.contextmanager
def reading(job: Job) -> Iterator[None]:
    """The source held open, as it asks for while its inputs are listed and read.

    Raises:
        ConfigError: It cannot be used.
        Incomplete: It cannot be used now.
    """
    with contextlib.ExitStack() as stack:
        with telling("source", ConfigError):
            stack.enter_context(job.source.reading())
        yield


def setup_of(job: Job, say: Callable[[str], None], signals: Signals) -> Setup:
    """What the mode needs to know."""
    path = job.sink.store.root
    given = job.sink_path or ""
    relative = (given or path) if is_local(path) and not given.startswith(("/", "file:", "~")) else None
    return Setup(job.resources, job.ray, job.num_threads, relative, say, signals, _packages(job))


def _packages(job: Job) -> tuple[str, ...]:
    """What a worker imports before it has predicted a batch: by the config, or because the loader's module did."""
    named = {job.predict.input, *job.model.target.split(".")}
    return ("pyarrow.parquet", *(name for name in FRAMEWORKS if name in named or name in sys.modules))
