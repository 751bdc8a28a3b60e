"""Predict the first batch of a run: it shows that the model can predict, and what its predictions look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.arrow.schemas import BadPredictions, fixed_schema
from runner.types import Answer, Model, Probe, Shard, Stages
from runner.words.secrets import learn
from runner.worker import first_batch
from runner.worker.care import CARELESS, Care
from runner.worker.holding import held
from runner.worker.predicting import Predicting
from runner.worker.sifting import Sifted, allowance, sift
from runner.worker.trouble import Trouble, failure_of
from runner.worker.work_order import WorkOrder

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ProveFirst:
    """Predict the first batch of a shard: it shows what predictions look like, and that the model can predict at all.

    What it gives is kept for the call that predicts the shard.

    Attributes:
        order: How; without an output schema the first batch fixes one.
        last: Whether, without any row, an empty batch is predicted instead.
        shards: One shard.
        care: What earlier tries have taught.
    """

    order: WorkOrder
    last: bool
    shards: tuple[Shard, ...]
    care: Care = CARELESS

    def run(self, model: Model) -> Answer:
        """Return the schema of the first batch's predictions, or the failure."""
        learn(self.order.secrets)
        try:
            with held(model, self.care) as caller:
                run = _FirstRun(self.order, self.shards[0], self.order.predicting(caller, self.care.pieces))
                return run.probe(last=self.last)
        except Exception as error:
            return [failure_of(self.shards[0], error)]


class _FirstRun:
    """The first batches of a shard, up to one with a good row."""

    def __init__(self, order: WorkOrder, shard: Shard, predicting: Predicting) -> None:
        self._order, self._shard, self._predicting = order, shard, predicting
        self._rows = order.rows(shard, order.read)
        self._batches: list[tuple[int, Sifted]] = []
        self._bad = 0

    def probe(self, *, last: bool) -> Probe:
        schema = self._schema()
        seen, kept = schema is not None, self._keep()
        if schema is None and last:
            schema = self._schema_of_empty()
        serialized = None if schema is None else bytes(schema.serialize())
        return Probe(serialized, seen, kept, Stages(read=self._rows.seconds, predict=self._predicting.seconds))

    def _schema(self) -> pa.Schema | None:
        start = 0
        for batch in self._rows.batches():
            sifted = self._sift(batch, start)
            self._batches.append((batch.num_rows, sifted))
            if sifted.batch.num_rows:
                return self._order.predictions or _fixed(sifted.predictions.schema)
            start += batch.num_rows
        return None

    def _sift(self, batch: pa.Table, start: int) -> Sifted:
        budget, where = self._order.budget, self._rows.where_from(start)
        allowed = None if budget is None else allowance(budget, self._bad, start + batch.num_rows, where)
        sifted = sift(batch, self._predicting.attempt, allowed, where)
        self._bad += len(sifted.bad)
        return sifted

    def _keep(self) -> bool:
        """Keep what was predicted; where it cannot be written it is predicted again, and whether parts can be will show."""
        if not self._batches:
            return False
        try:
            first_batch.keep(self._order.sink.records, self._order.run, self._shard.id, self._batches)
        except Exception:
            return False
        return True

    def _schema_of_empty(self) -> pa.Schema:
        """What an empty batch gives; not every predictor takes one, and then empty parts have no predictions' columns."""
        import pyarrow as pa

        try:
            return fixed_schema(self._predicting(self._order.source.empty_table()).schema)
        except Exception:
            return pa.schema([])


def _fixed(schema: pa.Schema) -> pa.Schema:
    try:
        return fixed_schema(schema)
    except BadPredictions as error:
        raise Trouble("model", str(error)) from error
