"""What happens in a worker: read a shard, predict batch by batch, write its part. Streaming, one batch in memory.

A shard that fails is a `Failure` that is returned, never an exception that escapes: an exception that cannot be pickled
would look like a dead worker.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner import quarantine
from runner.batches import BadPredictions, fixed_schema
from runner.care import CARELESS, Care
from runner.child import Child
from runner.predicting import Predicting, Rows, Sifted, Trouble, allowance, bad_rows, sift, told, without
from runner.publishing import Written
from runner.quarantine import BadRow, Budget
from runner.transience import is_transient
from runner.types import (
    Answer,
    Failure,
    FailureKind,
    Input,
    Model,
    Outcome,
    Predictor,
    Probe,
    Reader,
    Receipt,
    Shard,
    Sink,
    Stages,
)

if TYPE_CHECKING:
    import pyarrow as pa

COMPLAINTS = 3  # bad rows that a receipt tells in words


@dataclass(frozen=True)
class Recipe:
    """How every shard of a job is predicted.

    Attributes:
        reader: Reads fragments.
        sink: Publishes parts.
        source: Schema of what the reader offers.
        input: What a batch looks like to the predictor.
        columns: The columns the predictor gets.
        keep: The columns that go with the predictions.
        batch_size: Rows per call of the predictor.
        budget: How many rows may go to quarantine; `None` where the first bad row fails its shard.
        skip: Paths or patterns of files that are left out.
        refuse_nan: Whether a NaN makes its row bad.
        predictions: Schema of the predictions; `None` until a probe fixed it.
    """

    reader: Reader
    sink: Sink
    source: pa.Schema
    input: Input
    columns: list[str]
    keep: list[str]
    batch_size: int
    budget: Budget | None = None
    skip: tuple[str, ...] = ()
    refuse_nan: bool = False
    predictions: pa.Schema | None = None

    def rows(self, shard: Shard) -> Rows:
        """The shard's batches."""
        return Rows(self.reader, self.reads, self.batch_size, without(shard.fragments, self.skip))

    def predicting(self, predictor: Predictor, pieces: int = 1) -> Predicting:
        """The predictor, held to the output schema once that is fixed, and given each batch in so many pieces."""
        return Predicting(
            predictor, self.columns, self.input, self.predictions, pieces=pieces, refuse_nan=self.refuse_nan
        )

    @property
    def reads(self) -> list[str]:
        """All columns that are read, each once."""
        return list(dict.fromkeys([*self.columns, *self.keep]))

    @property
    def part_schema(self) -> pa.Schema:
        """Kept columns first, then the predictions."""
        import pyarrow as pa

        assert self.predictions is not None
        return pa.schema([*(self.source.field(name) for name in self.keep), *self.predictions])


@dataclass(frozen=True)
class Process:
    """Predict these shards, each committed by itself.

    Attributes:
        recipe: How.
        shards: In this order.
        care: What earlier tries have taught.
    """

    recipe: Recipe
    shards: tuple[Shard, ...]
    care: Care = CARELESS

    def run(self, model: Model) -> Answer:
        """Return a receipt or a failure for each shard, in their order."""
        try:
            predictor = Child(model.portable()) if self.care.alone else model.obtain()
        except Exception as error:
            return [_failed_to_load(shard, error) for shard in self.shards]
        predicting = self.recipe.predicting(predictor, self.care.pieces)
        try:
            return [_attempt(_ShardRun(self.recipe, shard, predicting)) for shard in self.shards]
        finally:
            if isinstance(predictor, Child):
                predictor.close()


@dataclass(frozen=True)
class ProbeSchema:
    """Predict the first batch of a shard, to learn what predictions look like.

    Attributes:
        recipe: How, with no output schema yet.
        last: Whether, without any row, an empty batch is predicted instead.
        shards: One shard.
        care: What earlier tries have taught.
    """

    recipe: Recipe
    last: bool
    shards: tuple[Shard, ...]
    care: Care = CARELESS

    def run(self, model: Model) -> Answer:
        """Return the schema of the first batch's predictions, or the failure."""
        try:
            predictor = Child(model.portable()) if self.care.alone else model.obtain()
        except Exception as error:
            return [_failed_to_load(self.shards[0], error)]
        try:
            return self._probe(predictor)
        except Exception as error:
            return [_failure(self.shards[0], error)]

    def _probe(self, predictor: Predictor) -> Probe:
        run = _ProbeRun(self.recipe, self.shards[0], predictor)
        if (seen := run.schema()) is not None:
            return Probe(_serialized(seen))
        return Probe(_serialized(run.schema_of_empty()) if self.last else None, seen=False)


def _serialized(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


# ---------------------------------------------------------------- one shard


class _ShardRun:
    """One try at one shard."""

    def __init__(self, recipe: Recipe, shard: Shard, predicting: Predicting) -> None:
        self.shard = shard
        self._recipe, self._schema = recipe, recipe.part_schema
        self._rows, self._predicting = recipe.rows(shard), predicting
        self._before = predicting.seconds
        self._count = 0
        self._bad: list[BadRow] = []

    @property
    def part(self) -> str:
        """Full path of what is written."""
        sink = self._recipe.sink
        return sink.store.path(sink.file_name(self.shard))

    def commit(self) -> Receipt:
        """Read, predict, write; the quarantine is published before the part, which commits both."""
        started = time.perf_counter()
        written = self._recipe.sink.write(self.shard, self._schema, self._tables())
        return self._receipt(written, time.perf_counter() - started)

    def _tables(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        for batch in self._rows.batches():
            sifted = self._sift(batch)
            if sifted.batch.num_rows:
                columns = [*sifted.batch.select(self._recipe.keep).columns, *sifted.predictions.columns]
                yield pa.table(columns, schema=self._schema)
        if self._bad:
            quarantine.publish(self._recipe.sink.store, self.shard, self._recipe.reader, self._bad)

    def _sift(self, batch: pa.Table) -> Sifted:
        start, self._count = self._count, self._count + batch.num_rows
        budget = self._recipe.budget
        allowed = None if budget is None else allowance(budget, len(self._bad), self._count)
        sifted = sift(batch, self._predicting, allowed, self._rows.where_from(start))
        self._bad += bad_rows(self._rows, start, sifted.bad)
        return sifted

    def _receipt(self, written: Written, seconds: float) -> Receipt:
        read, predict = self._rows.seconds, self._predicting.seconds - self._before
        return Receipt(
            shard=self.shard.id,
            rows_in=self._count,
            rows_out=self._count - len(self._bad),
            rows_quarantined=len(self._bad),
            bytes_out=written.bytes,
            checksum=written.checksum,
            stages=Stages(read, predict, max(0.0, seconds - read - predict)),
            worker=where_i_am(),
            complaints=tuple(row.told() for row in self._bad[:COMPLAINTS]),
        )


class _ProbeRun:
    """The first good rows of a shard, predicted to learn their schema."""

    def __init__(self, recipe: Recipe, shard: Shard, predictor: Predictor) -> None:
        self._recipe, self._rows, self._predicting = recipe, recipe.rows(shard), recipe.predicting(predictor)

    def schema(self) -> pa.Schema | None:
        start = 0
        for batch in self._rows.batches():
            allowed = None if self._recipe.budget is None else allowance(self._recipe.budget, 0, batch.num_rows)
            sifted = sift(batch, self._predicting, allowed, self._rows.where_from(start))
            if sifted.batch.num_rows:
                return _fixed(sifted.predictions.schema)
            start += batch.num_rows
        return None

    def schema_of_empty(self) -> pa.Schema:
        """What an empty batch gives; not every predictor takes one, and then empty parts have no predictions' columns."""
        import pyarrow as pa

        try:
            return fixed_schema(self._predicting(self._recipe.source.empty_table()).schema)
        except Exception:
            return pa.schema([])


def _fixed(schema: pa.Schema) -> pa.Schema:
    try:
        return fixed_schema(schema)
    except BadPredictions as error:
        raise Trouble("model", str(error)) from error


# ---------------------------------------------------------------- failures as values


def _attempt(run: _ShardRun) -> Outcome:
    try:
        return run.commit()
    except Exception as error:
        return _failure(run.shard, error, run.part)


def _failure(shard: Shard, error: Exception, part: str = "") -> Failure:
    if isinstance(error, Trouble):
        return Failure(shard.id, error.kind, str(error), _traceback(error.__cause__ or error))
    kind: FailureKind = "transient" if is_transient(error) else "storage"
    return Failure(shard.id, kind, f"{part or shard.name} cannot be written: {told(error)}", _traceback(error))


def _failed_to_load(shard: Shard, error: Exception) -> Failure:
    return Failure(shard.id, "model", f"the model cannot be loaded in a worker: {told(error)}", _traceback(error))


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# ---------------------------------------------------------------- the process


def where_i_am() -> str:
    """`host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def thread_environment(num_threads: int) -> dict[str, str]:
    """What a worker's environment must hold before its native libraries start their pools."""
    return dict.fromkeys(THREAD_VARIABLES, str(num_threads))


def limit_threads(num_threads: int) -> None:
    """Bound the thread pools of Arrow, torch and BLAS in this process."""
    import pyarrow as pa

    os.environ.update(thread_environment(num_threads))
    pa.set_cpu_count(num_threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
    pools: Any = sys.modules.get("threadpoolctl")
    if pools is not None:
        pools.threadpool_limits(num_threads)
