"""A job from beginning to end, on one screen: `run` is the whole story.

files --survey--> shards --ledger--> pending --dispatch--> receipts --ledger--> manifest, _SUCCESS
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from runner import planning, worker
from runner.batches import parse_schema
from runner.dispatch import Dispatcher, Retried
from runner.errors import ConfigError, Incomplete, Interrupted, JobFailed, RunnerError, SinkRefused
from runner.fingerprint import fingerprint_fields, versions
from runner.ledger import Ledger, Recorded, make_ready, named, refuse
from runner.mark import Mark
from runner.progress import Progress, progress
from runner.report import Report
from runner.signals import Signals
from runner.storage import Store, is_local, is_transient
from runner.types import (
    Auto,
    Errors,
    Failure,
    File,
    Fragment,
    Loader,
    Mode,
    ModelSource,
    Pool,
    Predict,
    Probe,
    RayOptions,
    Receipt,
    Resources,
    Setup,
    Shard,
    Sink,
    Source,
)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Job:
    """Everything that a config decides, checked and built.

    Attributes:
        batch_size: Rows per call of the predictor, counted from each shard's start.
        shard_bytes: Target size of a shard; `auto` goes by the input's size; `None` is one shard per file.
        config: The resolved config, redacted, for the records.
        sink_path: The sink's path as it was given, `None` if it was not.
        command: What continues this job, for people.
    """

    source: Source
    model: Loader
    mode: Mode
    sink: Sink
    predict: Predict = field(default_factory=Predict)
    resources: Resources = field(default_factory=Resources)
    errors: Errors = field(default_factory=Errors)
    ray: RayOptions = field(default_factory=RayOptions)
    batch_size: int = 65_536
    shard_bytes: int | Auto | None = "auto"
    config: Mapping[str, Any] = field(default_factory=dict)
    sink_path: str | None = None
    command: str | None = None

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What the fingerprint is made of: artifacts are read once per job."""
        return fingerprint_fields(self)


def run(job: Job, show: Progress | None = None) -> Report:
    """Predict everything that is not predicted yet.

    Returns:
        The report of a complete run.

    Raises:
        ConfigError, SinkRefused: Nothing was run.
        JobFailed, Incomplete, Interrupted: With the report as their `report`; the same command continues.
    """
    show = show or progress()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    ledger = open_ledger(job, run_id)
    with Signals() as signals, _marked(ledger.store, run_id), contextlib.closing(show):
        state = _Run(job, show, make_ready(ledger, job.fields, job.sink.save_mode, job.sink.accept))
        with state:
            survey = look(job, state.ledger)
            state.begin(survey)
            if survey.pending:
                predict(job, survey, state, signals)
            state.ledger.finish()
    return state.report


def open_ledger(job: Job, run_id: str) -> Ledger:
    """Read the sink's records, and refuse a sink that this job must not touch.

    Raises:
        SinkRefused: It holds something else, or cannot be read.
        Incomplete: It cannot be read now.
    """
    with _telling(job.sink.store.root):
        ledger = Ledger(job.sink, run_id)
        refuse(ledger, job.fields, job.sink.save_mode, job.sink.accept)
    return ledger


@contextlib.contextmanager
def _marked(store: Store, run_id: str) -> Iterator[None]:
    """The sink marked as this run's: the first write, which shows whether it can be written at all."""
    with contextlib.ExitStack() as stack:
        with _telling(store.root):
            stack.enter_context(Mark(store, run_id))
        yield


@contextlib.contextmanager
def _telling(root: str) -> Iterator[None]:
    """Storage errors of the sink, told with its key."""
    try:
        yield
    except OSError as error:
        kind = Incomplete if is_transient(error) else SinkRefused
        raise kind(f"sink.path={root}: cannot be used: {type(error).__name__}: {error}") from error


# ---------------------------------------------------------------- what there is to do


@dataclass(frozen=True)
class Survey:
    """What there is to do, found out without loading a model.

    Attributes:
        schema: Of the source's columns that are read; `None` where no file has any.
        new: Shards of files that no plan covers, to be recorded as a further plan.
        pending: All shards that are not committed, recorded ones first.
        notes: For people.
    """

    schema: pa.Schema | None
    new: list[Shard]
    pending: list[Shard]
    notes: list[str]


def look(job: Job, ledger: Ledger) -> Survey:
    """List the input, hold it against the plans, and plan what is new.

    Raises:
        ConfigError: No input, unreadable files, missing columns, or a covered file that has changed.
    """
    files = job.source.files()
    covered = ledger.covered()
    refuse_changed(files, covered)
    new = [file for file in files if file.path not in covered]
    notes = _gone(files, covered)
    if ledger.plans and new and job.sink.save_mode != "append":
        notes.append(
            f"{len(new)} input files are in no recorded plan and are left alone: {named(file.path for file in new)}; "
            "sink.save_mode=append adds them"
        )
        new = []
    if not new:
        schema = ledger.recorded.source_schema if ledger.recorded else None
        return Survey(schema, [], ledger.pending(), notes)
    fragments, found = job.source.inspect(new, needed_columns(job))
    schema = agreed_schema(ledger.recorded, found)
    shards = plan_new(job, ledger, fragments)
    return Survey(schema, shards, [*ledger.pending(), *shards], notes)


def plan_new(job: Job, ledger: Ledger, fragments: Sequence[Fragment]) -> list[Shard]:
    """The shards of a further plan."""
    total = sum(fragment.bytes for fragment in fragments)
    wanted = planning.target_bytes(total) if job.shard_bytes == "auto" else job.shard_bytes
    fingerprint = planning.fingerprint(job.fields)
    return planning.make_shards(fragments, wanted, ledger.next_sequence(), fingerprint)


def needed_columns(job: Job) -> dict[str, str] | None:
    """The columns that are read, each with the key that asks for it; `None` for all."""
    from runner.sources.files import filter_columns

    if job.predict.columns is None or job.sink.keep_columns == "all":
        return None
    asked = dict.fromkeys(job.predict.columns, "predict.columns")
    kept = dict.fromkeys(job.sink.keep_columns, "sink.keep_columns")
    return {**dict.fromkeys(filter_columns(job.source.filters), "source.filters"), **kept, **asked}


def refuse_changed(files: Sequence[File], covered: Mapping[str, File]) -> None:
    """Refuse input that is not what was planned.

    Raises:
        ConfigError: Naming the files.
    """
    changed = [
        file.path
        for file in files
        if (was := covered.get(file.path)) and (was.size, was.version) != (file.size, file.version)
    ]
    if changed:
        raise ConfigError(
            f"source.path: {named(changed)} changed since it was planned; its predictions would mix two versions: "
            "put it back, or start over with sink.save_mode=overwrite or another sink.path"
        )


def _gone(files: Sequence[File], covered: Mapping[str, File]) -> list[str]:
    there = {file.path for file in files}
    gone = [path for path in covered if path not in there]
    return [f"{len(gone)} planned input files are no longer listed: {named(gone)}"] if gone else []


def agreed_schema(recorded: Recorded | None, found: pa.Schema | None) -> pa.Schema | None:
    """The source's schema: the recorded one, which new files must agree with.

    Raises:
        ConfigError: They do not: which columns.
    """
    import pyarrow as pa

    was = recorded.source_schema if recorded else None
    if was is None or found is None:
        return found if was is None else was
    kinds = {column.name: column.type for column in found}
    wrong = [f"{c.name!r} is {c.type} in the recorded plan, {kinds.get(c.name, 'missing')} in the new files" for c in was
             if kinds.get(c.name) not in (c.type, pa.null())]  # fmt: skip
    if wrong:
        raise ConfigError(f"source.path: the new files do not have the recorded schema: {'; '.join(wrong)}")
    return was


# ---------------------------------------------------------------- doing it


def predict(job: Job, survey: Survey, state: _Run, signals: Signals) -> None:
    """Start workers, fix the output schema, record the plan, and dispatch.

    Raises:
        JobFailed, Incomplete, Interrupted: Not every shard was committed.
    """
    schema = survey.schema if survey.schema is not None else _no_columns()
    with opened_pool(job, state.show.say) as pool:
        recipe = _recipe(job, schema, state.ledger.recorded)
        recipe = fix_output(job, recipe, survey, pool, state)
        if survey.new:
            state.ledger.unmark()
            state.ledger.record_plan(survey.new)
        pending = state.ledger.pending()
        state.started(pending)
        dispatcher = Dispatcher(
            pool, lambda shards: worker.Process(recipe, schema, shards), job.errors, stop=signals.asked
        )
        by_id = {shard.id: shard for shard in pending}
        for event in dispatcher.run(planning.execution_order(pending)):
            state.take(event, by_id, dispatcher)
        state.predicted(pool.workers())
    if signals.number:
        raise Interrupted(signals.number)
    raise_for(state.report.failures)


def _no_columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([])


@contextlib.contextmanager
def opened_pool(job: Job, say: Callable[[str], None]) -> Iterator[Pool]:
    """Workers that have, or will load, the model; none is left afterwards."""
    model = ModelSource(job.model.call, on_driver=job.predict.load_on == "driver")
    if model.on_driver:
        _load(job, model)
    pool = job.mode.open(model, setup_of(job, say))
    try:
        yield pool
    finally:
        pool.close()


def _load(job: Job, model: ModelSource) -> None:
    try:
        model.obtain()
    except RunnerError:
        raise
    except Exception as error:
        raise JobFailed(
            f"model._target_={job.model.target}: the model cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def setup_of(job: Job, say: Callable[[str], None]) -> Setup:
    """What the mode needs to know."""
    num_threads = job.predict.num_threads or max(1, int(job.resources.num_cpus))
    path = job.sink.store.root
    given = job.sink_path or ""
    relative = (given or path) if is_local(path) and not given.startswith(("/", "file:", "~")) else None
    return Setup(job.resources, job.ray, num_threads, relative, say)


def _recipe(job: Job, schema: pa.Schema, recorded: Recorded | None) -> worker.Recipe:
    keep = schema.names if job.sink.keep_columns == "all" else list(job.sink.keep_columns)
    columns = job.predict.columns or schema.names
    declared = parse_schema(job.predict.output_schema) if job.predict.output_schema else None
    fixed = recorded.output_schema if recorded and recorded.output_schema is not None else declared
    return worker.Recipe(job.source.reader(schema), job.sink, job.predict.input, columns, keep, job.batch_size, fixed)


def fix_output(job: Job, recipe: worker.Recipe, survey: Survey, pool: Pool, state: _Run) -> worker.Recipe:
    """The recipe with the schema that every part will have: recorded, declared, or probed now; recorded if it was not."""
    ledger, was = state.ledger, state.ledger.recorded
    schema = survey.schema if survey.schema is not None else _no_columns()
    if recipe.predictions is not None:
        fixed, final = recipe.predictions, True
    else:
        fixed, final = _probed(job, recipe, schema, survey, pool)
    done = replace(recipe, predictions=fixed)
    _check_output(job, done, schema)
    now = Recorded(job.fields, survey.schema, fixed if final else None, job.config, versions())
    if was is None:
        recorded = ledger.record_recipe(now)
        return done if recorded.output_schema is None else replace(recipe, predictions=recorded.output_schema)
    if (was.output_schema is None and final) or (was.source_schema is None and survey.schema is not None):
        ledger.rewrite_recipe(replace(was, source_schema=survey.schema, output_schema=fixed if final else None))
    return done


def _check_output(job: Job, recipe: worker.Recipe, schema: pa.Schema) -> None:
    assert recipe.predictions is not None
    if clash := sorted(set(recipe.keep) & set(recipe.predictions.names)):
        raise ConfigError(
            f"sink.keep_columns: {', '.join(clash)} is also the name of a prediction; leave it out, or rename the prediction"
        )
    job.sink.check(recipe.part_schema(schema))


def _probed(job: Job, recipe: worker.Recipe, schema: pa.Schema, survey: Survey, pool: Pool) -> tuple[pa.Schema, bool]:
    """The schema of the first row's predictions; of an empty batch, and not final, where there is no row at all."""
    import pyarrow as pa

    candidates = [shard for shard in survey.pending if shard.rows != 0] or survey.pending[:1]
    last = candidates[-1]
    for shard in candidates:
        prober = Dispatcher(
            pool, lambda shards: worker.ProbeSchema(recipe, schema, shards, shards[-1] is last), job.errors
        )
        for event in prober.run([shard]):
            if isinstance(event, Failure):
                raise_for([event])
            if isinstance(event, Probe) and event.schema is not None:
                return pa.ipc.read_schema(pa.py_buffer(event.schema)), event.seen
    return pa.schema([]), False


def raise_for(failures: Sequence[Failure]) -> None:
    """Raise for what kept shards from being committed: a rerun helps (`Incomplete`) or does not (`JobFailed`).

    Raises:
        JobFailed: Data or model failed.
        Incomplete: Storage or workers failed.
    """
    if not failures:
        return
    hopeless = [failure for failure in failures if failure.kind in {"data", "model"}]
    first = (hopeless or list(failures))[0]
    more = f" (and {len(failures) - 1} more failed shards)" if len(failures) > 1 else ""
    raise (JobFailed if hopeless else Incomplete)(f"{first.message}{more}")


# ---------------------------------------------------------------- keeping count


class _Run:
    """One run's ledger, report and progress; a context that closes the report however the run ends."""

    def __init__(self, job: Job, show: Progress, ledger: Ledger) -> None:
        self.job, self.show, self.ledger = job, show, ledger
        self.report = Report(ledger.run_id, ledger.store.root)
        self._started = time.monotonic()
        self._predicting = 0.0
        self._workers: set[str] = set()

    def __enter__(self) -> _Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def begin(self, survey: Survey) -> None:
        """Note what there is to do."""
        self.report.notes += survey.notes
        for note in survey.notes:
            self.show.say(f"note: {note}")
        if not survey.pending and self.ledger.recorded is None:  # an empty input, allowed
            self.ledger.record_recipe(Recorded(self.job.fields, survey.schema, None, self.job.config, versions()))

    def started(self, pending: Sequence[Shard]) -> None:
        """Begin to predict."""
        self.report.shards = len(self.ledger.shards)
        self.report.committed_before = self.report.shards - len(pending)
        counts = [shard.rows for shard in pending]
        rows = None if None in counts else sum(count or 0 for count in counts)
        self.show.start(self.report.shards, self.report.committed_before, rows)
        self._predicting = time.monotonic()

    def take(self, event: object, shards: Mapping[str, Shard], dispatcher: Dispatcher) -> None:
        """Record what became of a shard, or of a try."""
        report = self.report
        report.retries, report.lost_workers = dispatcher.retries, dispatcher.lost_workers
        if isinstance(event, Receipt):
            self._count(event, shards[event.shard])
            self.show.update(dispatcher.in_flight, receipt=event)
        elif isinstance(event, Failure):
            report.failures.append(event)
            self.show.say(f"failed: {event.message}")
            self.show.update(dispatcher.in_flight, failure=event)
        elif isinstance(event, Retried):
            self.show.say(f"trying {event.shard.name} again in {event.wait:.1f} s: {event.reason}")

    def _count(self, receipt: Receipt, shard: Shard) -> None:
        report = self.report
        self.ledger.receive(receipt, shard)
        report.committed += 1
        report.rows_in += receipt.rows_in
        report.rows_out += receipt.rows_out
        report.rows_quarantined += receipt.rows_quarantined
        report.bytes_in += shard.bytes
        report.bytes_out += receipt.bytes_out
        report.stages = report.stages.plus(receipt.stages)
        self._workers.add(receipt.worker)
        report.workers = len(self._workers)

    def predicted(self, workers: int) -> None:
        """The last answer is there."""
        self.report.predicting_seconds = time.monotonic() - self._predicting
        self.report.wait = max(0.0, workers * self.report.predicting_seconds - sum(self.report.stages))

    def _end(self, error: BaseException | None) -> None:
        report = self.report
        report.seconds = time.monotonic() - self._started
        report.shards = len(self.ledger.shards)
        report.committed_before = len(self.ledger.committed) - report.committed
        if error is not None:
            report.exit_code = getattr(error, "exit_code", 1)
            kinds: dict[int, Literal["failed", "incomplete"]] = {1: "failed", 75: "incomplete"}
            report.status = "interrupted" if isinstance(error, Interrupted) else kinds.get(report.exit_code, "failed")
            report.next_command = self.job.command
            error.report = report  # type: ignore[attr-defined]
        if self.ledger.recorded is not None:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self.ledger.flush()
                self.ledger.store.replace(self.ledger.in_run("report.json"), report.to_json())
