"""What every part of a sink will look like: one schema, declared, recorded or probed, before the first part is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from runner import worker
from runner.batches import parse_schema
from runner.dispatch import Dispatcher
from runner.errors import ConfigError, Incomplete, JobFailed
from runner.fingerprint import versions
from runner.ledger import Ledger
from runner.quarantine import Budget
from runner.recipe import Recorded
from runner.secrets import known
from runner.signals import Signals
from runner.spec import Job
from runner.survey import Survey
from runner.types import Failure, Pool, Probe

if TYPE_CHECKING:
    import pyarrow as pa


def settle(job: Job, survey: Survey, ledger: Ledger, pool: Pool, signals: Signals) -> worker.Recipe:
    """How every shard is predicted, with the schema that every part will have; recorded if it was not.

    Raises:
        ConfigError: The sink cannot hold that schema, or a kept column has a prediction's name.
        JobFailed, Incomplete, Interrupted: No first batch could be predicted.
    """
    recipe = replace(_recipe(job, survey, ledger.recorded), run=ledger.run_id, secrets=known())
    final = recipe.predictions is not None
    if not final:
        probed, final = _probed(job, recipe, survey, pool, signals)
        recipe = replace(recipe, predictions=probed)
    _check(job, recipe)
    recorded = _record(job, survey, ledger, recipe.predictions if final else None)
    return recipe if recorded.output_schema is None else replace(recipe, predictions=recorded.output_schema)


def _recipe(job: Job, survey: Survey, recorded: Recorded | None) -> worker.Recipe:
    names = survey.columns.names
    declared = parse_schema(job.predict.output_schema) if job.predict.output_schema else None
    fixed = recorded.output_schema if recorded and recorded.output_schema is not None else declared
    return worker.Recipe(
        reader=job.source.reader(survey.columns),
        sink=job.sink,
        source=survey.columns,
        input=job.predict.input,
        columns=job.predict.columns or names,
        keep=names if job.sink.keep_columns == "all" else list(job.sink.keep_columns),
        batch_size=job.batch_size,
        budget=Budget(job.errors.max_bad_rows) if job.errors.on_bad_rows == "quarantine" else None,
        skip=tuple(job.errors.skip_files),
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
    return ledger.rewrite_recipe(replace(was, source_schema=survey.schema, output_schema=fixed)) if news else was


def _check(job: Job, recipe: worker.Recipe) -> None:
    assert recipe.predictions is not None
    if clash := sorted(set(recipe.keep) & set(recipe.predictions.names)):
        raise ConfigError(
            f"sink.keep_columns: {', '.join(clash)} is also the name of a prediction; leave it out, or rename the prediction"
        )
    job.sink.check(recipe.part_schema)


def _probed(job: Job, recipe: worker.Recipe, survey: Survey, pool: Pool, signals: Signals) -> tuple[pa.Schema, bool]:
    """The schema of the first row's predictions; of an empty batch, and not final, where there is no row at all."""
    import pyarrow as pa

    candidates = [shard for shard in survey.pending if shard.rows != 0] or survey.pending[:1]
    last, failures = candidates[-1], []
    for shard in candidates:
        work = partial(worker.ProbeSchema, recipe, shard is last)
        for event in Dispatcher(pool, work, job.errors, stop=signals.asked).run([shard]):
            if isinstance(event, Failure):
                failures.append(event)
            if isinstance(event, Probe) and event.schema is not None:
                return pa.ipc.read_schema(pa.py_buffer(event.schema)), event.seen
        signals.raise_if_asked()
        if len(failures) >= job.errors.stop_after_failed_shards or any(each.kind == "model" for each in failures):
            break
    raise_for(failures)
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
