"""Calls the predictor with a batch, in as many pieces as need be, and answers for what it returns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from runner.arrow.batches import to_input
from runner.arrow.isolate import Failed, Good, Tried
from runner.arrow.schemas import conform, raise_for_nan
from runner.types import BatchKind, Caller, Raised
from runner.worker import rejecting
from runner.worker.columns import WrongColumns, mismatch
from runner.worker.memory import RowLimit, is_out_of_memory

if TYPE_CHECKING:
    import pyarrow as pa


class Predicting:
    """Calls the predictor, and answers for what it returns.

    Attributes:
        seconds: Spent in the predictor.
        limit: How many rows it is given at once.
    """

    def __init__(
        self,
        caller: Caller,
        columns: list[str],
        kind: BatchKind,
        schema: pa.Schema | None,
        *,
        pieces: int = 1,
        refuse_nan: bool = False,
        limit: RowLimit | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is predicted yet.

        Args:
            caller: Calls the predictor.
            columns: Those that the predictor gets.
            kind: The form of a batch.
            schema: What predictions are held to, once that is fixed.
            pieces: A batch is given in at least this many pieces, one after the other.
            refuse_nan: Whether a NaN makes its row bad.
            limit: How many rows memory allows at once.
            rename: Columns that the predictor gets under another name.
        """
        self.seconds = 0.0
        self.limit = limit or RowLimit()
        self._caller, self._columns, self._kind, self._schema = caller, columns, kind, schema
        self._pieces, self._refuse_nan = pieces, refuse_nan
        self._names = [(rename or {}).get(name, name) for name in columns]
        self._proven = False  # whether the predictor has taken these columns, or has failed for another reason

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The predictions of a batch, without the rows that the model rejects.

        Raises:
            Exception: Whatever made a piece of it fail.
        """
        import pyarrow as pa

        results = list[Any]()
        for each in self.attempt(batch):
            if isinstance(each, Failed):
                raise each.error
            results += [each.result] if isinstance(each, Good) else []
        return pa.concat_tables(results, promote_options="permissive") if results else pa.table({})

    def attempt(self, batch: pa.Table) -> Iterator[Tried]:
        """Yield what comes of a batch's rows, in their order: predictions, rows that the model rejects, pieces that fail.

        Predictions are in the fixed schema; as the model types them while there is none. A piece that takes too much memory is halved, and
        the smaller size is kept for all later ones, unless a single row is to blame.
        """
        wanted = -(-batch.num_rows // self._pieces)
        return self._attempt(batch, 0, batch.num_rows, wanted, self.limit.rows)

    def _attempt(self, batch: pa.Table, start: int, end: int, wanted: int, before: int) -> Iterator[Tried]:
        while True:
            piece = batch.slice(start, min(end - start, wanted, self.limit.rows))
            for tried in [each.moved(start) for each in self._at_once(piece)]:
                if not isinstance(tried, Failed) or not is_out_of_memory(tried.error):
                    yield tried
                elif tried.end - tried.start > 1:
                    self.limit.halve(tried.end - tried.start)
                    yield from self._attempt(batch, tried.start, tried.end, wanted, before)
                else:
                    self.limit.rows = before
                    yield tried
            start += piece.num_rows
            if start >= end:
                return

    def _at_once(self, batch: pa.Table) -> list[Tried]:
        """What comes of these rows when the predictor is given all of them, in as many parts as it takes at once."""
        started = time.perf_counter()
        try:
            cuts = _cuts(batch.num_rows, self._caller.concurrency)
            parts = [batch.slice(cut, end - cut) for cut, end in pairwise(cuts)]
            given = [self._input(part) for part in parts]
            outcomes = self._caller(given)
        except Exception as error:
            return [Failed(0, batch.num_rows, error)]
        finally:
            self.seconds += time.perf_counter() - started
        found = zip(cuts, map(self._found, parts, given, outcomes), strict=False)
        return [each.moved(cut) for cut, tried in found for each in tried]

    def _found(self, part: pa.Table, given: Any, outcome: Any) -> list[Tried]:
        """What came of a part, counted from its own first row."""
        rows = part.num_rows
        if isinstance(outcome, Raised):
            assert isinstance(outcome.error, Exception)
            return [Failed(0, rows, self._of_columns(outcome.error, part) or outcome.error)]
        self._proven = True
        try:
            table, guilty = rejecting.answer(outcome, part, given)
            good = [] if guilty and not table.num_rows else [Good(0, rows, self.hold(table))]
        except Exception as error:
            return [Failed(0, rows, error)]
        return [*good, *guilty]

    def hold(self, table: pa.Table) -> pa.Table:
        """Predictions in the fixed schema, if there is one.

        Raises:
            BadPredictions, DoesNotFit, NotANumber: They are not what is expected.
        """
        typed = table if self._schema is None else conform(table, self._schema)
        if self._refuse_nan:
            raise_for_nan(typed)
        return typed

    def _input(self, batch: pa.Table) -> Any:
        return to_input(batch.select(self._columns).rename_columns(self._names), self._kind)

    def _of_columns(self, error: Exception, batch: pa.Table) -> WrongColumns | None:
        """The error to show instead, if the model does not know these columns, which is no row's fault.

        Once the model has taken them, this is not asked again.
        """
        if self._proven:
            return None
        text = mismatch(error, self._names, self._caller.columns, lambda: self._predict_nothing(batch))
        self._proven = not text
        if not text:
            return None
        wrong = WrongColumns(text)
        wrong.__cause__ = error
        return wrong

    def _predict_nothing(self, batch: pa.Table) -> None:
        [outcome] = self._caller([self._input(batch.slice(0, 0))])
        if isinstance(outcome, Raised):
            raise outcome.error


def _cuts(rows: int, parts: int) -> Sequence[int]:
    """Where to cut so many rows into at most so many parts of about the same size: 0, the cuts, the number of rows."""
    count = max(1, min(rows, parts))
    return [rows * i // count for i in range(count + 1)]
