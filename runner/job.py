"""A job from beginning to end, on one screen: `run` is the whole story.

files --survey--> shards --ledger--> pending --dispatch--> receipts --ledger--> manifest, _SUCCESS
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from runner.driver.account import Account
from runner.driver.dispatch import Dispatcher
from runner.driver.job import Job
from runner.driver.opening import open_ledger, reading, setup_of, storage_errors, survey_of
from runner.driver.output_schema import check_early, raise_for, settle
from runner.driver.planning import execution_order
from runner.driver.progress import Progress, progress
from runner.driver.record import Record
from runner.driver.survey import Survey, notes_on_size
from runner.errors import Incomplete, JobFailed, NothingToDo, RunnerError, SinkRefused
from runner.ledger.admission import make_ready
from runner.ledger.ledger import Ledger
from runner.predictor.shipping import Shipper
from runner.process.overlap import background
from runner.process.signals import Signals
from runner.report.report import Report
from runner.types import Pool
from runner.words import exceptions
from runner.words.exceptions import describe
from runner.worker.predict_shards import PredictShards


def run(job: Job, show: Progress | None = None) -> Report:
    """Predict everything that is not predicted yet.

    Returns:
        The report of a complete run.

    Raises:
        ConfigError, SinkRefused: Nothing was run.
        JobFailed, Incomplete, Interrupted: With the report as their `report`; the same command continues.
    """
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    sink = f"{job.sink.records.place}"
    with Record(job, run_id, show or progress()) as record:
        ledger = open_ledger(job, run_id)
        with _marked(ledger, sink):
            record.begin()
            with storage_errors(sink, Incomplete):
                ledger = make_ready(ledger, job.fields, job.sink.save_mode, job.accepted)
                account = Account(job, record, ledger, record.report)
            with account, Signals(job.errors.grace_period) as signals, storage_errors(sink, Incomplete), reading(job):
                account.refuse_put_aside()
                survey = survey_and_predict(job, account, signals)
                account.hold_to_budget(final=True)
                if not ledger.complete:
                    ledger.finish(survey.skipped, filtered=job.source.filtered)
    return account.report


@contextlib.contextmanager
def _marked(ledger: Ledger, sink: str) -> Iterator[None]:
    """Mark the sink as this run's. It is the first write, which shows whether the sink can be written at all."""
    with contextlib.ExitStack() as stack:
        with storage_errors(sink, SinkRefused):
            stack.enter_context(ledger.mark)
        yield


def survey_and_predict(job: Job, account: Account, signals: Signals) -> Survey:
    """Start workers while the input is surveyed, and predict. If all recorded plans are done, start them only if there is new input.

    Raises:
        ConfigError: The input cannot be used.
        JobFailed, Incomplete, Interrupted: Not every shard was committed.
    """
    looking = background(partial(_listed, job, account))
    if account.ledger.plans and not account.ledger.pending():
        wait([looking])
    with contextlib.suppress(NothingToDo), opened_pool(job, looking, account.show, signals) as pool:
        account.begin(looking.result())
        predict(job, looking.result(), account, pool, signals)
        return looking.result()
    account.begin(looking.result())
    return looking.result()


def _listed(job: Job, account: Account) -> Survey:
    with account.show.during("looking at the input"):
        survey = survey_of(job, account.ledger)
        check_early(job, survey, account.ledger.recorded)
        return survey


def _needed(looking: Future[Survey], seconds: float | None = None) -> None:
    """Return if the survey found something to do, or if it takes longer than so many seconds.

    Raises:
        NothingToDo: There is not.
        ConfigError, Incomplete: The input cannot be used.
    """
    wait([looking], seconds)
    if looking.done() and not looking.result().pending:
        raise NothingToDo


def predict(job: Job, survey: Survey, account: Account, pool: Pool, signals: Signals) -> None:
    """Fix the output schema, record the plan, and dispatch.

    Raises:
        JobFailed, Incomplete, Interrupted: Not every shard was committed.
    """
    ledger = account.ledger
    account.report.ray_seconds = _ray_seconds()
    signals.in_flight = True
    signals.raise_if_asked()
    account.note(notes_on_size(job, survey, pool.workers()))
    order = settle(job, survey, account, pool, signals)
    job.sink.prepare(order.part_schema)
    if survey.new:
        ledger.unmark()
        ledger.record_plan(survey.new)
    pending = execution_order(ledger.pending())
    dispatcher = Dispatcher(pool, partial(PredictShards, order), job.errors, stop=partial(_asked, signals, account))
    account.started(pending)
    for event in dispatcher.run(pending):
        account.take(event, dispatcher)
    account.predicted(pool.workers())
    signals.raise_if_asked()
    raise_for(account.report.failures)


def _ray_seconds() -> float:
    session = sys.modules.get("runner.modes.session")  # absent where no mode needs Ray
    return 0.0 if session is None else float(session.start_seconds())


def _asked(signals: Signals, account: Account) -> bool:
    """Whether the job was asked to stop. People are told when that is noticed.

    Raises:
        Incomplete: Another run has taken the sink over.
    """
    account.ledger.mark.ensure_held()
    if signals.asked():
        account.draining(signals.number)
    return signals.number != 0


@contextlib.contextmanager
def opened_pool(job: Job, looking: Future[Survey], show: Progress, signals: Signals) -> Iterator[Pool]:
    """A pool of workers for the model. It is closed afterwards.

    Raises:
        NothingToDo: None is needed.
        ConfigError: The input cannot be used, whatever else went wrong besides.
        JobFailed: The model cannot be loaded.
    """
    _needed(looking, 0)
    on_driver = job.predict.load_on == "driver"
    model = Shipper(job.model.call, on_driver=on_driver, needed=partial(_needed, looking), during=show.during)
    try:
        pool = job.mode.open(model, replace(setup_of(job, show.say, signals), during=show.during, moved=show.move))
    except Exception as error:
        _needed(looking)
        if model.is_to_blame(error) and not isinstance(error, RunnerError):
            what = f"model._target_={job.model.target}: the model cannot be loaded"
            places = [f"  {line}" for line in exceptions.user_frames(error).splitlines()]
            raise JobFailed(
                "\n".join([f"{what}: {describe(error)}", *places]), details=exceptions.full_traceback(error)
            ) from error
        raise
    try:
        _needed(looking)
        yield pool
    finally:
        pool.close()
