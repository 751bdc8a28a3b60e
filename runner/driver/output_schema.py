"""The one schema of all parts: declared, recorded, or learnt from a first batch before the first part is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from runner.arrow.schemas import parse_schema
from runner.driver.account import Account
from runner.driver.dispatch import Dispatcher
from runner.driver.job import Job
from runner.driver.survey import Survey
from runner.errors import ConfigError, Incomplete, JobFailed
from runner.fingerprint.fields import versions
from runner.ledger.ledger import Ledger
from runner.ledger.quarantine import Budget
from runner.ledger.recipe import Recorded
from runner.process.signals import Signals
from runner.types import Failure, Pool, Probe, Shard
from runner.words.plain import counted
from runner.words.secrets import known
from runner.worker.prove_first import ProveFirst
from runner.worker.work_order import WorkOrder

if TYPE_CHECKING:
    import pyarrow as pa


def settle(job: Job, survey: Survey, account: Account, pool: Pool, signals: Signals) -> WorkOrder:
    """Decide how every shard is predicted and which schema all parts have, and record it.

    Raises:
        ConfigError: The sink cannot hold that schema, or a kept column has a prediction's name.
        JobFailed, Incomplete, Interrupted: No first batch could be predicted.
    """
    ledger = account.ledger
    order = replace(_order(job, survey, ledger.recorded), run=ledger.run_id, secrets=known())
    declared = final = order.predictions is not None
    if not declared or ledger.replaces:  # an older output is deleted only for a model that has predicted a batch
        order, seen = prove(job, order, survey, account, pool, signals)
        final = declared or seen
    if not declared:
        _check(job, order)
    recorded = _record(job, survey, ledger, order.predictions if final else None)
    order = replace(order, seal=ledger.seal)
    return order if recorded.output_schema is None else replace(order, predictions=recorded.output_schema)


def check_early(job: Job, survey: Survey, recorded: Recorded | None) -> None:
    """Refuse a schema that the sink cannot hold, before the model is loaded: where the schema is declared, or recorded by an earlier run.

    Raises:
        ConfigError: The sink cannot hold it, or a kept column has a prediction's name.
    """
    order = _order(job, survey, recorded)
    if survey.pending and order.predictions is not None:
        _check(job, order)


def _order(job: Job, survey: Survey, recorded: Recorded | None) -> WorkOrder:
    names = survey.columns.names
    declared = parse_schema(job.predict.output_schema) if job.predict.output_schema else None
    fixed = recorded.output_schema if recorded and recorded.output_schema is not None else declared
    return WorkOrder(
        reader=job.source.reader(survey.columns),
        sink=job.sink,
        source=survey.columns,
        input=job.predict.input,
        columns=job.predict.columns or names,
        keep=names if job.sink.keep_columns == "all" else list(job.sink.keep_columns),
        batch_size=job.batch_size,
        budget=Budget(job.errors.max_bad_rows) if job.errors.on_bad_rows == "quarantine" else None,
        skip=tuple(job.errors.skip_files),
        rename=job.predict.rename,
        refuse_nan=job.errors.on_nan == "quarantine",
        predictions=fixed,
    )


def _record(job: Job, survey: Survey, ledger: Ledger, fixed: pa.Schema | None) -> Recorded:
    was = ledger.recorded
    if was is None:
        return ledger.record_recipe(Recorded(job.fields, survey.schema, fixed, job.config, versions()))
    news = (was.output_schema is None and fixed is not None) or (
        was.source_schema is None and survey.schema is not None
    )
    now = was.accepting(job.fields)  # also where a complete output is appended to
    if news:
        now = replace(now, source_schema=survey.schema, output_schema=fixed)
    return was if now is was else ledger.rewrite_recipe(now)


def _check(job: Job, order: WorkOrder) -> None:
    assert order.predictions is not None
    if clash := sorted(set(order.keep) & set(order.predictions.names)):
        raise ConfigError(
            f"sink.keep_columns: {', '.join(clash)} is also the name of a prediction; leave it out, or rename the prediction"
        )
    job.sink.check(order.part_schema)


def prove(
    job: Job, order: WorkOrder, survey: Survey, account: Account, pool: Pool, signals: Signals
) -> tuple[WorkOrder, bool]:
    """Predict the first batch, which is kept for its shard.

    Returns:
        The work order with the schema of the first row's predictions, and whether that is final: without any row it is that of an empty
        batch.

    Raises:
        JobFailed, Incomplete, Interrupted: It could not be predicted.
    """
    candidates = [shard for shard in survey.pending if shard.rows != 0] or survey.pending[:1]
    failures: list[Failure] = []
    for shard in candidates:
        found = _first(job, order, shard, account, pool, signals, last=shard is candidates[-1])
        if isinstance(found, Failure):
            failures.append(found)
        if isinstance(found, Probe):
            order = replace(order, kept=order.kept | {shard.id}) if found.kept else order
            if found.schema is not None:
                return _with_schema(order, found.schema), found.seen
        signals.raise_if_asked()
        if len(failures) >= job.errors.stop_after_failed_shards or any(each.kind == "model" for each in failures):
            break
    raise_for(failures)
    return _with_schema(order, None), False


def _first(
    job: Job, order: WorkOrder, shard: Shard, account: Account, pool: Pool, signals: Signals, *, last: bool
) -> Probe | Failure | None:
    """The probe of a shard's first batch, or its failure; `None` if the job was asked to stop."""
    found: Probe | Failure | None = None
    dispatcher = Dispatcher(pool, partial(ProveFirst, order, last), job.errors, stop=signals.asked)
    with account.show.during(f"predicting the first batch{_rows_of(job, shard)}"):
        for event in dispatcher.run([shard]):
            account.proved(event, shard)
            found = event if isinstance(event, Probe | Failure) else found
    account.tried(dispatcher)
    return found


def _rows_of(job: Job, shard: Shard) -> str:
    return "" if shard.rows is None else f" ({counted(min(job.batch_size, shard.rows), 'row')})"


def _with_schema(order: WorkOrder, serialized: bytes | None) -> WorkOrder:
    """The work order with the schema that a first batch showed, unless it has one."""
    import pyarrow as pa

    if order.predictions is not None:
        return order
    return replace(
        order,
        predictions=pa.schema([]) if serialized is None else pa.ipc.read_schema(pa.py_buffer(serialized)),
    )


def raise_for(failures: Sequence[Failure]) -> None:
    """Raise an error for the shards that failed, if there are any: `Incomplete` if a rerun may help, else `JobFailed`.

    Raises:
        JobFailed: Data or model failed.
        Incomplete: Storage or workers failed.
    """
    if not failures:
        return
    hopeless = [failure for failure in failures if failure.kind in {"data", "model"}]
    first = (hopeless or list(failures))[0]
    more = f" (and {len(failures) - 1} more failed shards)" if len(failures) > 1 else ""
    lines = [f"{first.message}{more}", *(f"  {line}" for line in first.where.splitlines())]
    error = (JobFailed if hopeless else Incomplete)("\n".join(lines), details=first.details)
    error.kind = first.kind
    raise error
