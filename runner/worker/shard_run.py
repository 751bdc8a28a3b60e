"""One try at one shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from runner.ledger import quarantine
from runner.ledger.quarantine import BadRow
from runner.process.overlap import Handover, background, fill_queue
from runner.process.pulse import PULSE
from runner.process.threads import where_i_am
from runner.storage.publishing import ask_before_publishing, confirm_at_end
from runner.types import Fragment, Outcome, Receipt, Shard, Stages, Unreadable, Vitals, Written
from runner.worker import first_batch
from runner.worker.predicting import Predicting
from runner.worker.sifting import Allowed, Sifted, allowance, bad_rows, hold_to, sift
from runner.worker.trouble import failure_of
from runner.worker.work_order import WorkOrder

if TYPE_CHECKING:
    import pyarrow as pa

COMPLAINTS = 3  # bad rows that a receipt describes


class ShardRun:
    """One try at one shard."""

    def __init__(
        self,
        order: WorkOrder,
        shard: Shard,
        predicting: Predicting,
        read: Callable[[Fragment], Iterator[pa.Table | Unreadable]],
    ) -> None:
        """Nothing is read yet.

        Args:
            order: How it is predicted.
            shard: What is predicted.
            predicting: Calls the predictor.
            read: Yields the tables of a fragment.
        """
        self._order, self._shard, self._schema = order, shard, order.part_schema
        self._rows, self._predicting = order.rows(shard, read), predicting
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
        fill_queue(tables, self._tables())
        self._seconds, self._predicted = time.perf_counter() - started, self._predicting.seconds - before

    def _write(self, tables: Handover[pa.Table]) -> Written:
        try:
            with ask_before_publishing(self._order.refuse_lost_sink):
                return self._order.sink.write(self._shard, self._schema, confirm_at_end(tables))
        finally:
            tables.leave()

    def outcome(self) -> Outcome:
        """A receipt or a failure, once the part is written."""
        started = time.perf_counter()
        try:
            written = _held_to(self.written.result(), self._rows_out)
        except Exception as error:
            sink = self._order.sink
            return failure_of(self._shard, error, sink.records.path(sink.part(self._shard)))
        return self._receipt(written, self._seconds + time.perf_counter() - started)

    def _tables(self) -> Iterator[pa.Table]:
        if self._shard.id in self._order.kept:
            self._kept = first_batch.Kept.read(self._order.sink.records, self._order.run, self._shard.id)
        for batch in self._rows.batches():
            sifted = self._sift(batch)
            PULSE.add(batch.num_rows)
            if sifted.batch.num_rows:
                yield self._output(sifted)
        if bad := self._all_bad():
            with ask_before_publishing(self._order.refuse_lost_sink):
                self._aside = quarantine.publish(self._order.sink.records, self._shard, self._order.reader, bad)

    def _all_bad(self) -> list[BadRow]:
        """What cannot be parsed and what cannot be predicted, in the order of the input."""
        places = {fragment: i for i, fragment in enumerate(self._shard.fragments)}
        return sorted([*self._rows.unreadable, *self._bad], key=lambda row: (places[row.fragment], row.number))

    def _sift(self, batch: pa.Table) -> Sifted:
        start, self._count = self._count, self._count + batch.num_rows
        budget, where = self._order.budget, self._rows.where_from(start)
        unreadable = len(self._rows.unreadable)
        before, seen = len(self._bad) + unreadable, self._count + unreadable
        allowed = None if budget is None else allowance(budget, before, seen, where)
        sifted = self._taken(batch, allowed) or sift(batch, self._predicting.attempt, allowed, where)
        if sifted.batch.num_rows and (refused := self._order.sink.refused(self._output(sifted))):
            sifted = sifted.also_without(refused, batch.num_rows)
            hold_to(allowed, sifted.bad, where)
        self._bad += bad_rows(self._rows, start, sifted.bad)
        return sifted

    def _output(self, sifted: Sifted) -> pa.Table:
        """The good rows of a batch as the part has them: the kept columns, then the predictions."""
        import pyarrow as pa

        columns = [*sifted.batch.select(self._order.keep).columns, *sifted.predictions.columns]
        return pa.table(columns, schema=self._schema)

    def _taken(self, batch: pa.Table, allowed: Allowed | None) -> Sifted | None:
        """What the batch gave when it was the first of the run, held to the budget of today."""
        if (sifted := self._kept.take(batch, self._predicting.hold)) and sifted.bad and allowed is not None:
            allowed(sifted.bad)
        return sifted

    @property
    def _rows_out(self) -> int:
        return self._count - len(self._bad)

    def _receipt(self, written: Written, seconds: float) -> Receipt:
        read, predict = self._rows.seconds, self._predicted
        bad = self._all_bad()
        rows = self._count + len(self._rows.unreadable)
        return Receipt(
            shard=self._shard.id,
            rows_in=rows,
            rows_out=self._rows_out,
            rows_quarantined=len(bad),
            bytes_out=written.bytes,
            checksum=written.checksum,
            stages=Stages(read, predict, max(0.0, seconds - read - predict)),
            worker=where_i_am(),
            complaints=tuple(row.describe(placed=not i) for i, row in enumerate(bad[:COMPLAINTS])),
            vitals=Vitals(halved=self._predicting.limit.halvings()),
            quarantine=self._aside.checksum if self._aside else "",
        )


def _held_to(written: Written, rows: int) -> Written:
    """What a sink says that it wrote: it must hold every row that was predicted.

    Raises:
        ValueError: It does not.
        TypeError: It says something else.
    """
    if not isinstance(written, Written):
        raise TypeError(f"`write` of the sink returned {written!r:.60}; expected a runner.types.Written")
    if written.rows != rows:
        raise ValueError(f"the sink tells of {written.rows} rows in it, and {rows} were predicted")
    return written
