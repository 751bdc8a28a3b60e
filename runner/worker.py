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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from runner.batches import BadPredictions, DoesNotFit, conform, fixed_schema, rebatch, to_input, to_table
from runner.errors import ConfigError
from runner.isolate import Guilty, bisect
from runner.storage import is_transient
from runner.types import (
    Answer,
    Failure,
    FailureKind,
    Fragment,
    Input,
    Outcome,
    Predictor,
    Probe,
    Reader,
    Receipt,
    Shard,
    Sink,
    Stages,
    Written,
)

if TYPE_CHECKING:
    import pyarrow as pa

Obtain = Callable[[], Predictor]


@dataclass(frozen=True)
class Recipe:
    """How every shard of a job is predicted.

    Attributes:
        reader: Reads fragments.
        sink: Publishes parts.
        input: What a batch looks like to the predictor.
        columns: The columns the predictor gets.
        keep: The columns that go with the predictions.
        batch_size: Rows per call of the predictor.
        predictions: Schema of the predictions; `None` until a probe fixed it.
    """

    reader: Reader
    sink: Sink
    input: Input
    columns: list[str]
    keep: list[str]
    batch_size: int
    predictions: pa.Schema | None = None

    @property
    def reads(self) -> list[str]:
        """All columns that are read, each once."""
        return list(dict.fromkeys([*self.columns, *self.keep]))

    def part_schema(self, source: pa.Schema) -> pa.Schema:
        """Kept columns first, then the predictions."""
        import pyarrow as pa

        assert self.predictions is not None
        return pa.schema([*(source.field(name) for name in self.keep), *self.predictions])


@dataclass(frozen=True)
class Process:
    """Predict these shards, each committed by itself."""

    recipe: Recipe
    schema: pa.Schema
    shards: tuple[Shard, ...]

    def run(self, obtain: Obtain) -> Answer:
        """Return a receipt or a failure for each shard, in their order."""
        try:
            predictor = obtain()
        except Exception as error:
            return [_failed_to_load(shard, error) for shard in self.shards]
        return [_attempt(_ShardRun(self.recipe, self.schema, shard, predictor)) for shard in self.shards]


@dataclass(frozen=True)
class ProbeSchema:
    """Predict the first batch of a shard, to learn what predictions look like.

    Attributes:
        recipe: How, with no output schema yet.
        schema: Of the source.
        shards: One shard.
        last: Whether, without any row, an empty batch is predicted instead.
    """

    recipe: Recipe
    schema: pa.Schema
    shards: tuple[Shard, ...]
    last: bool

    def run(self, obtain: Obtain) -> Answer:
        """Return the schema of the first batch's predictions, or the failure."""
        try:
            predictor = obtain()
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
        return Probe(_serialized(run.schema_of_empty(self.schema)) if self.last else None, seen=False)


def _serialized(schema: pa.Schema) -> bytes:
    return bytes(schema.serialize())


# ---------------------------------------------------------------- one shard


class _Trouble(Exception):
    """A failure on its way out of the streaming generators, already told for people."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


class _Rows:
    """The batches of a shard; remembers which fragment each row came from."""

    def __init__(self, recipe: Recipe, shard: Shard) -> None:
        self.seconds = 0.0
        self._recipe, self._shard = recipe, shard
        self._counts: list[int] = []

    def batches(self) -> Iterator[pa.Table]:
        batches = rebatch(self._tables(), self._recipe.batch_size)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _tables(self) -> Iterator[pa.Table]:
        for fragment in self._shard.fragments:
            self._counts.append(0)
            try:
                for table in self._recipe.reader.read(fragment, self._recipe.reads):
                    self._counts[-1] += table.num_rows
                    yield table
            except Exception as error:
                _raise_unreadable(fragment, error)

    def where(self, row: int) -> str:
        """The file of a row of the shard, and its number within that file."""
        for fragment, count in zip(self._shard.fragments, self._counts, strict=False):
            if row < count:
                number = next(islice(self._recipe.reader.positions(fragment), row, None))
                return f"{fragment.file.path} row {number}"
            row -= count
        raise IndexError(row)


def _raise_unreadable(fragment: Fragment, error: Exception) -> NoReturn:
    kind: FailureKind = (
        "transient" if is_transient(error) else "storage" if isinstance(error, PermissionError) else "data"
    )
    gone = " (gone since it was listed)" if isinstance(error, FileNotFoundError) else ""
    raise _Trouble(kind, f"{fragment.file.path} cannot be read{gone}: {_told(error)}") from error


class _Predicting:
    """Calls the predictor and answers for what it returns."""

    def __init__(self, recipe: Recipe, predictor: Predictor) -> None:
        self.seconds = 0.0
        self._recipe, self._predictor = recipe, predictor

    def raw(self, batch: pa.Table) -> pa.Table:
        """The predictions as the model types them."""
        started = time.perf_counter()
        predictions = self._predictor(to_input(batch.select(self._recipe.columns), self._recipe.input))
        self.seconds += time.perf_counter() - started
        return to_table(predictions, batch.num_rows)

    def typed(self, batch: pa.Table) -> pa.Table:
        """The predictions in the fixed schema."""
        assert self._recipe.predictions is not None
        return conform(self.raw(batch), self._recipe.predictions)

    def first_guilty(self, batch: pa.Table, error: Exception, attempt: Callable[[pa.Table], pa.Table]) -> Guilty | None:
        """The first row that fails alone, `None` if every row does well with fewer neighbours."""
        found = bisect(batch.num_rows, lambda start, end: attempt(batch.slice(start, end - start)), error)
        return next((each for each in found if isinstance(each, Guilty)), None)


class _ShardRun:
    """One try at one shard."""

    def __init__(self, recipe: Recipe, source: pa.Schema, shard: Shard, predictor: Predictor) -> None:
        self.shard = shard
        self._recipe, self._schema = recipe, recipe.part_schema(source)
        self._rows, self._predicting = _Rows(recipe, shard), _Predicting(recipe, predictor)
        self._count = 0

    def commit(self) -> Receipt:
        """Read, predict, write, publish."""
        started = time.perf_counter()
        written = self._recipe.sink.write(self.shard, self._schema, self._tables())
        seconds = time.perf_counter() - started
        return self._receipt(written, seconds)

    def _tables(self) -> Iterator[pa.Table]:
        for batch in self._rows.batches():
            yield self._part_of(batch)
            self._count += batch.num_rows

    def _part_of(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa

        try:
            predictions = self._predicting.typed(batch)
        except Exception as error:
            self._blame(batch, error)
        return pa.table([*batch.select(self._recipe.keep).columns, *predictions.columns], schema=self._schema)

    def _blame(self, batch: pa.Table, error: Exception) -> NoReturn:
        _raise_blamed(self._rows, self._predicting, self._count, batch, error, self._predicting.typed)

    def _receipt(self, written: Written, seconds: float) -> Receipt:
        read, predict = self._rows.seconds, self._predicting.seconds
        stages = Stages(read, predict, max(0.0, seconds - read - predict))
        return Receipt(
            self.shard.id, self._count, self._count, 0, written.bytes, written.checksum, stages, where_i_am()
        )


class _ProbeRun:
    """The first batch of a shard, predicted to learn its schema."""

    def __init__(self, recipe: Recipe, shard: Shard, predictor: Predictor) -> None:
        self._rows, self._predicting = _Rows(recipe, shard), _Predicting(recipe, predictor)

    def schema(self) -> pa.Schema | None:
        batch = next(self._rows.batches(), None)
        if batch is None:
            return None
        try:
            return fixed_schema(self._predicting.raw(batch).schema)
        except Exception as error:
            _raise_blamed(self._rows, self._predicting, 0, batch, error, self._predicting.raw)

    def schema_of_empty(self, source: pa.Schema) -> pa.Schema:
        """What an empty batch gives; not every predictor takes one, and then empty parts have no predictions' columns."""
        import pyarrow as pa

        try:
            return fixed_schema(self._predicting.raw(source.empty_table()).schema)
        except Exception:
            return pa.schema([])


def _raise_blamed(
    rows: _Rows,
    predicting: _Predicting,
    start: int,
    batch: pa.Table,
    error: Exception,
    attempt: Callable[[pa.Table], pa.Table],
) -> NoReturn:
    """Name the first row that the model cannot predict; a model that breaks the contract on good rows is its own fault."""
    if isinstance(error, BadPredictions):
        raise _Trouble("model", f"{_told(error)} (rows from {rows.where(start)})") from error
    guilty = predicting.first_guilty(batch, error, attempt)
    if guilty is None:
        raise _Trouble(
            "model", f"a batch of {batch.num_rows} rows from {rows.where(start)} fails: {_told(error)}"
        ) from error
    raise _Trouble("data", f"{rows.where(start + guilty.row)}: {_told(guilty.error)}") from guilty.error


# ---------------------------------------------------------------- failures as values


def _attempt(run: _ShardRun) -> Outcome:
    try:
        return run.commit()
    except Exception as error:
        return _failure(run.shard, error)


def _failure(shard: Shard, error: Exception) -> Failure:
    if isinstance(error, _Trouble):
        return Failure(shard.id, error.kind, str(error), _traceback(error.__cause__ or error))
    kind: FailureKind = "transient" if is_transient(error) else "storage"
    return Failure(shard.id, kind, f"{shard.name} cannot be written: {_told(error)}", _traceback(error))


def _failed_to_load(shard: Shard, error: Exception) -> Failure:
    return Failure(shard.id, "model", f"the model cannot be loaded in a worker: {_told(error)}", _traceback(error))


def _told(error: BaseException) -> str:
    if isinstance(error, BadPredictions | DoesNotFit | ConfigError):
        return str(error)
    return f"{type(error).__name__}: {error}"


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
