"""Calls the predictor with a batch, and answers for what it returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.arrow.batches import to_input, to_table
from runner.arrow.labels import aligned
from runner.arrow.schemas import conform, raise_for_nan
from runner.process.signals import raise_as_error
from runner.types import BatchKind, Predictor
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
        predictor: Predictor,
        columns: list[str],
        kind: BatchKind,
        schema: pa.Schema | None,
        *,
        pieces: int = 1,
        refuse_nan: bool = False,
        limit: RowLimit | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Take the predictor, what it is given, and the schema its predictions are held to, once that is fixed."""
        self.seconds = 0.0
        self.limit = limit or RowLimit()
        self._predictor, self._columns, self._kind, self._schema = predictor, columns, kind, schema
        self._pieces, self._refuse_nan = pieces, refuse_nan
        self._names = [(rename or {}).get(name, name) for name in columns]
        self._proven = False  # whether the predictor has taken these columns, or has failed for another reason

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The predictions of a batch, one row each, in the fixed schema; as the model types them while there is none.

        What takes too much memory is halved, and the smaller size kept, unless a single row is to blame.
        """
        import pyarrow as pa

        wanted, before = -(-batch.num_rows // self._pieces), self.limit.rows
        pieces: list[pa.Table] = []
        start = 0
        while start < batch.num_rows or not pieces:
            piece = batch.slice(start, min(wanted, self.limit.rows))
            try:
                pieces.append(self._predict(piece))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if piece.num_rows <= 1:
                    self.limit.rows = before
                    raise
                self.limit.halve(piece.num_rows)
            else:
                start += piece.num_rows
        return pa.concat_tables(pieces, promote_options="permissive")  # as the model types them, pieces may differ

    def _predict(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        given = self._input(batch)
        try:
            predictions = self._predictor(given)
        except BaseException as error:
            if isinstance(error, Exception):
                self._raise_for_columns(error, batch)
            raise_as_error(error, "the predictor")
        finally:
            self.seconds += time.perf_counter() - started
        self._proven = True
        return self.hold(to_table(aligned(predictions, batch, given), batch.num_rows))

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

    def _raise_for_columns(self, error: Exception, batch: pa.Table) -> None:
        """Columns that the model does not know are no row's fault; once it has taken them, this is not asked again."""
        if self._proven:
            return
        self._proven = True
        wanted = getattr(self._predictor, "columns", None)
        names = wanted if isinstance(wanted, list) else None
        if told := mismatch(error, self._names, names, lambda: self._predictor(self._input(batch.slice(0, 0)))):
            self._proven = False
            raise WrongColumns(told) from error
