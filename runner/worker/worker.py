"""What happens in a worker: read a shard, predict batch by batch, write its part. Streaming, a few batches in memory.

Threads read ahead of the predictor and write behind it; a receipt's seconds are those of the predictor's own thread, which either
predicts or waits for one of the two.

A shard that fails is a `Failure` that is returned, never an exception that escapes: an exception that cannot be pickled
would look like a dead worker.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from runner.arrow.schemas import BadPredictions, fixed_schema
from runner.ledger import quarantine
from runner.ledger.quarantine import BadRow, Budget
from runner.predictor.child import Child
from runner.process.overlap import Ahead, Handover, background, fill
from runner.process.pulse import PULSE
from runner.process.threads import where_i_am
from runner.storage.locations import is_local
from runner.storage.publishing import TakenOver, asking
from runner.storage.transience import is_of_storage, is_transient
from runner.types import (
    Answer,
    BatchKind,
    Failure,
    FailureKind,
    Fragment,
    Model,
    Outcome,
    Predictor,
    Probe,
    Reader,
    Receipt,
    Seal,
    Shard,
    Sink,
    Stages,
    Unreadable,
    Vitals,
    Written,
)
from runner.words import exceptions
from runner.words.secrets import learn
from runner.worker import first_batch
from runner.worker.care import CARELESS, Care
from runner.worker.predicting import (
    Allowed,
    Predicting,
    Rows,
    Sifted,
    Trouble,
    allowance,
    bad_rows,
    most_in,
    sift,
    told,
    without,
)

if TYPE_CHECKING:
    import pyarrow as pa

REMOTE_READERS = 4  # fragments that are read at once where each request takes its time
WRITERS = 4  # parts that are being written at once
LEAVING_SECONDS = 5.0  # that a stop leaves for taking back what was begun
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
        rename: Input columns that the predictor gets under another name.
        budget: How many rows may go to quarantine; `None` where the first bad row fails its shard.
        skip: Paths or patterns of files that are left out.
        refuse_nan: Whether a NaN makes its row bad.
        predictions: Schema of the predictions; `None` until a probe fixed it.
        run: Names the run, for what a worker process keeps from call to call, and for what is kept of first batches.
        kept: Ids of the shards whose first batches are kept.
        secrets: What no text that leaves the worker may hold.
        seal: What the sink holds as long as it is this job's; `None` for what publishes nothing.
    """

    reader: Reader
    sink: Sink
    source: pa.Schema
    input: BatchKind
    columns: list[str]
    keep: list[str]
    batch_size: int
    budget: Budget | None = None
    skip: tuple[str, ...] = ()
    refuse_nan: bool = False
    predictions: pa.Schema | None = None
    run: str = ""
    kept: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    seal: Seal | None = None

    def fragments(self, shard: Shard) -> list[Fragment]:
        """What is read of a shard."""
        return without(shard.fragments, self.skip)

    def read(self, fragment: Fragment) -> Iterator[pa.Table | Unreadable]:
        """The fragment's tables."""
        return self.reader.read(fragment, self.reads)

    def rows(self, shard: Shard, read: Callable[[Fragment], Iterator[pa.Table | Unreadable]]) -> Rows:
        """The shard's batches, of the tables that `read` gives for its fragments."""
        return Rows(self.reader, read, self.fragments(shard), self.batch_size, self.budget)

    def refuse_lost_sink(self) -> None:
        """Keep back what was predicted if the sink has become another job's.

        Raises:
            TakenOver: It has.
        """
        store = self.sink.store
        if self.seal is not None and not store.holds(self.seal):
            raise TakenOver(
                f"sink.path={store.root}: {self.seal.name} is not the one that this run began with: another run has taken the sink over"
            )

    def predicting(self, predictor: Predictor, pieces: int = 1) -> Predicting:
        """The predictor, held to the output schema once that is fixed, and given each batch in so many pieces."""
        return Predicting(
            predictor, self.columns, self.input, self.predictions,
            pieces=pieces, refuse_nan=self.refuse_nan, most=most_in(self.run), rename=self.rename,
        )  # fmt: skip

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
        learn(self.recipe.secrets)
        fragments = [fragment for shard in self.shards for fragment in self.recipe.fragments(shard)]
        sources = {fragment: partial(self.recipe.read, fragment) for fragment in fragments}
        try:
            with held(model, self.care) as predictor, Ahead(sources, threads_for(fragments)) as ahead:
                predicting = self.recipe.predicting(predictor, self.care.pieces)
                return self._outcomes(_ShardRun(self.recipe, shard, predicting, ahead.take) for shard in self.shards)
        except Trouble as error:
            return [_failure(shard, error) for shard in self.shards]

    def _outcomes(self, runs: Iterable[_ShardRun]) -> list[Outcome]:
        """Predict one shard after the other, while those before are still being written."""
        outcomes: list[Outcome] = []
        writing: deque[_ShardRun] = deque()
        try:
            for run in runs:
                if len(writing) == WRITERS:
                    outcomes.append(writing.popleft().outcome())
                writing.append(run)
                run.predict()
        except BaseException:
            wait([run.written for run in writing], LEAVING_SECONDS)  # what was begun is taken back
            raise
        return [*outcomes, *(run.outcome() for run in writing)]


@dataclass(frozen=True)
class ProveFirst:
    """Predict the first batch of a shard: it shows what predictions look like, and that the model can predict at all.

    What it gives is kept for the call that predicts the shard.

    Attributes:
        recipe: How; without an output schema the first batch fixes one.
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
        learn(self.recipe.secrets)
        try:
            with held(model, self.care) as predictor:
                run = _FirstRun(self.recipe, self.shards[0], self.recipe.predicting(predictor, self.care.pieces))
                return run.probe(last=self.last)
        except Exception as error:
            return [_failure(self.shards[0], error)]


@contextlib.contextmanager
def held(model: Model, care: Care) -> Iterator[Predictor]:
    """The predictor, in a process of its own where something may kill it.

    Raises:
        Trouble: It cannot be loaded.
    """
    try:
        predictor = Child(model.portable()) if care.alone else model.obtain()
    except Exception as error:
        raise Trouble("model", f"the model cannot be loaded in a worker: {told(error)}") from error
    try:
        yield predictor
    finally:
        if isinstance(predictor, Child):
            predictor.close()


def threads_for(fragments: Sequence[Fragment]) -> int:
    """How many threads read: one keeps a local disk busy, several hide the latency of a network."""
    return 1 if all(is_local(fragment.input.name) for fragment in fragments) else REMOTE_READERS


# ---------------------------------------------------------------- one shard


class _ShardRun:
    """One try at one shard."""

    def __init__(
        self,
        recipe: Recipe,
        shard: Shard,
        predicting: Predicting,
        read: Callable[[Fragment], Iterator[pa.Table | Unreadable]],
    ) -> None:
        self._recipe, self._shard, self._schema = recipe, shard, recipe.part_schema
        self._rows, self._predicting = recipe.rows(shard, read), predicting
        self._seconds = self._predicted = 0.0
        self._count = 0
        self._bad: list[BadRow] = []
        self._aside: Written | None = None  # the quarantine file
        self._kept = first_batch.Kept()

    def predict(self) -> None:
        """Read and predict, and write behind; the quarantine is published before the part, which commits both."""
        started, before = time.perf_counter(), self._predicting.seconds
        tables: Handover[pa.Table] = Handover()
        self.written = background(partial(self._write, tables))
        fill(tables, self._tables())
        self._seconds, self._predicted = time.perf_counter() - started, self._predicting.seconds - before

    def _write(self, tables: Handover[pa.Table]) -> Written:
        try:
            with asking(self._recipe.refuse_lost_sink):
                return self._recipe.sink.write(self._shard, self._schema, iter(tables))
        finally:
            tables.leave()

    def outcome(self) -> Outcome:
        """What came of it, once it is written."""
        started = time.perf_counter()
        try:
            written = self.written.result()
        except Exception as error:
            sink = self._recipe.sink
            return _failure(self._shard, error, sink.store.path(sink.file_name(self._shard)))
        return self._receipt(written, self._seconds + time.perf_counter() - started)

    def _tables(self) -> Iterator[pa.Table]:
        import pyarrow as pa

        if self._shard.id in self._recipe.kept:
            self._kept = first_batch.Kept.read(self._recipe.sink.store, self._recipe.run, self._shard.id)
        for batch in self._rows.batches():
            sifted = self._sift(batch)
            PULSE.add(batch.num_rows)
            if sifted.batch.num_rows:
                columns = [*sifted.batch.select(self._recipe.keep).columns, *sifted.predictions.columns]
                yield pa.table(columns, schema=self._schema)
        if bad := self._all_bad():
            with asking(self._recipe.refuse_lost_sink):
                self._aside = quarantine.publish(self._recipe.sink.store, self._shard, self._recipe.reader, bad)

    def _all_bad(self) -> list[BadRow]:
        """What cannot be parsed and what cannot be predicted, in the order of the input."""
        places = {fragment: i for i, fragment in enumerate(self._shard.fragments)}
        return sorted([*self._rows.unreadable, *self._bad], key=lambda row: (places[row.fragment], row.number))

    def _sift(self, batch: pa.Table) -> Sifted:
        start, self._count = self._count, self._count + batch.num_rows
        budget, where = self._recipe.budget, self._rows.where_from(start)
        unreadable = len(self._rows.unreadable)
        before, seen = len(self._bad) + unreadable, self._count + unreadable
        allowed = None if budget is None else allowance(budget, before, seen, where)
        sifted = self._taken(batch, allowed) or sift(batch, self._predicting, allowed, where)
        self._bad += bad_rows(self._rows, start, sifted.bad)
        return sifted

    def _taken(self, batch: pa.Table, allowed: Allowed | None) -> Sifted | None:
        """What the batch gave when it was the first of the run, held to the budget of today."""
        if (sifted := self._kept.take(batch, self._predicting.hold)) and sifted.bad and allowed is not None:
            allowed(sifted.bad)
        return sifted

    def _receipt(self, written: Written, seconds: float) -> Receipt:
        read, predict = self._rows.seconds, self._predicted
        bad = self._all_bad()
        rows = self._count + len(self._rows.unreadable)
        return Receipt(
            shard=self._shard.id,
            rows_in=rows,
            rows_out=rows - len(bad),
            rows_quarantined=len(bad),
            bytes_out=written.bytes,
            checksum=written.checksum,
            stages=Stages(read, predict, max(0.0, seconds - read - predict)),
            worker=where_i_am(),
            complaints=tuple(row.told(placed=not i) for i, row in enumerate(bad[:COMPLAINTS])),
            vitals=Vitals(halved=self._predicting.most.asked()),
            quarantine=self._aside.checksum if self._aside else "",
        )


class _FirstRun:
    """The first batches of a shard, up to one with a good row."""

    def __init__(self, recipe: Recipe, shard: Shard, predicting: Predicting) -> None:
        self._recipe, self._shard, self._predicting = recipe, shard, predicting
        self._rows = recipe.rows(shard, recipe.read)
        self._batches: list[tuple[int, Sifted]] = []
        self._bad = 0

    def probe(self, *, last: bool) -> Probe:
        schema = self._schema()
        seen, kept = schema is not None, self._keep()
        if schema is None and last:
            schema = self._schema_of_empty()
        told = None if schema is None else bytes(schema.serialize())
        return Probe(told, seen, kept, Stages(read=self._rows.seconds, predict=self._predicting.seconds))

    def _schema(self) -> pa.Schema | None:
        start = 0
        for batch in self._rows.batches():
            sifted = self._sift(batch, start)
            self._batches.append((batch.num_rows, sifted))
            if sifted.batch.num_rows:
                return self._recipe.predictions or _fixed(sifted.predictions.schema)
            start += batch.num_rows
        return None

    def _sift(self, batch: pa.Table, start: int) -> Sifted:
        budget, where = self._recipe.budget, self._rows.where_from(start)
        allowed = None if budget is None else allowance(budget, self._bad, start + batch.num_rows, where)
        sifted = sift(batch, self._predicting, allowed, where)
        self._bad += len(sifted.bad)
        return sifted

    def _keep(self) -> bool:
        """Keep what was predicted; where it cannot be written it is predicted again, and whether parts can be will show."""
        if not self._batches:
            return False
        try:
            first_batch.keep(self._recipe.sink.store, self._recipe.run, self._shard.id, self._batches)
        except Exception:
            return False
        return True

    def _schema_of_empty(self) -> pa.Schema:
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


def _failure(shard: Shard, error: Exception, part: str = "") -> Failure:
    if isinstance(error, Trouble):
        cause = error.__cause__ or error
        return Failure(shard.id, error.kind, str(error), exceptions.whole(cause), exceptions.where(cause))
    what = f"{part or shard.name} cannot be written: {told(error)}"
    return Failure(shard.id, _kind(error), what, exceptions.whole(error), exceptions.where(error))


def _kind(error: Exception) -> FailureKind:
    """Of what writing a part raised: what is no storage's error is of a value that the format cannot hold, also later."""
    if isinstance(error, MemoryError):
        return "memory"
    if is_transient(error):
        return "transient"
    return "storage" if is_of_storage(error) else "data"
