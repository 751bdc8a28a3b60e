"""`plan.tune_batch`: measure on a sample how many rows a second the model predicts with each batch size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

from runner.driver.job import Job
from runner.driver.survey import Survey
from runner.errors import ConfigError
from runner.predictor.calling import LocalCaller
from runner.predictor.shipping import loaded
from runner.process.threads import limit_threads
from runner.types import Shard, Unreadable
from runner.words.plain import counted
from runner.worker.predicting import Predicting
from runner.worker.trouble import in_one_line

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 262_144
SAMPLE_BYTES = 256 * 1024**2
LEAST_SECONDS = 0.4  # that each size is measured for
MOST_SECONDS = 60.0  # after which no further size is begun
ENOUGH = 0.95  # of the best rate: a larger batch only takes more memory


class Rate(NamedTuple):
    """The measurement of one batch size."""

    batch_size: int
    rows_per_second: float


def tune(job: Job, survey: Survey, shards: Sequence[Shard]) -> Iterator[str]:
    """Yield lines for people: a table of rates, and the smallest batch size that is about as fast as the fastest.

    The model is loaded, and predicts, in this process, with the threads that a worker has.

    Raises:
        ConfigError: There are no rows, or the model cannot predict them.
    """
    sample = _sample(job, survey, shards)
    limit_threads(job.num_threads)
    try:
        predicting = Predicting(
            LocalCaller(loaded(job.model.call)), sample.column_names, job.predict.input, None, rename=job.predict.rename
        )
        rates = list(_rates(predicting, sample))
    except Exception as error:
        raise ConfigError(
            f"plan.tune_batch: the model cannot predict the first {sample.num_rows:,} rows: {in_one_line(error)}"
        ) from error
    yield f"batch sizes, measured on {counted(sample.num_rows, 'row')} in this process with {counted(job.num_threads, 'thread')}:"
    best = max(rate.rows_per_second for rate in rates)
    for rate in rates:
        yield f"{rate.batch_size:>12,}  {rate.rows_per_second:>14,.0f} rows/s  {rate.rows_per_second / best:>4.0%} of the best"
    found = knee(rates)
    yield f"knee: batch_size={found.batch_size}; larger batches take more memory and gain little (the job has batch_size={job.batch_size})"


def knee(rates: Sequence[Rate]) -> Rate:
    """The smallest batch size that is about as fast as the fastest."""
    best = max(rate.rows_per_second for rate in rates)
    return next(rate for rate in rates if rate.rows_per_second >= ENOUGH * best)


def _sample(job: Job, survey: Survey, shards: Sequence[Shard]) -> pa.Table:
    import pyarrow as pa

    columns = job.predict.columns or survey.columns.names
    reader = job.source.reader(survey.columns)
    taken, rows, size = list[pa.Table](), 0, 0
    for table in (table for shard in shards for each in shard.fragments for table in reader.read(each, columns)):
        if isinstance(table, Unreadable):
            continue
        taken.append(table.slice(0, SAMPLE_ROWS - rows))
        rows, size = rows + taken[-1].num_rows, size + taken[-1].nbytes
        if rows >= SAMPLE_ROWS or size >= SAMPLE_BYTES:
            break
    if not rows:
        raise ConfigError("plan.tune_batch: the input has no rows to measure with")
    return pa.concat_tables(taken).combine_chunks()


def _rates(predicting: Predicting, sample: pa.Table) -> Iterator[Rate]:
    """Measure one row, two rows, four rows and so on, until the sample, the memory or the time is used up."""
    predicting(sample.slice(0, 1))  # what the first call costs once is no matter of its size
    deadline, batch_size = time.monotonic() + MOST_SECONDS, 1
    while time.monotonic() < deadline:
        rate = _rate(predicting, sample, batch_size)
        if predicting.limit.halved:
            return
        yield Rate(batch_size, rate)
        if batch_size == sample.num_rows:
            return
        batch_size = min(2 * batch_size, sample.num_rows)


def _rate(predicting: Predicting, sample: pa.Table, batch_size: int) -> float:
    """Yield whole batches of the sample, again and again."""
    starts = cycle(range(0, sample.num_rows - batch_size + 1, batch_size))
    rows, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < LEAST_SECONDS:
        predicting(sample.slice(next(starts), batch_size))
        rows += batch_size
    return rows / seconds
