"""Predictions that come with rows which the model refuses: a `Rejected`, held to what its batch allows."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.arrow.isolate import Guilty, without
from runner.arrow.labels import aligned
from runner.arrow.predictions import to_table
from runner.arrow.schemas import BadPredictions
from runner.types import Rejected

if TYPE_CHECKING:
    import pyarrow as pa

ALSO = "; Rejected.predictions holds a value for every row of the batch, also for the rows that are rejected, where it is not looked at"


def answer(returned: Any, batch: pa.Table, given: Any) -> tuple[pa.Table, list[Guilty]]:
    """The predictions of the rows that are not rejected, and the rows that are, in their order.

    Args:
        returned: By the predictor.
        batch: The rows that it was asked for.
        given: The batch in the form in which the predictor got it; it may have been sorted in place since.

    Raises:
        BadPredictions: They are not what is expected.
    """
    if inspect.iscoroutine(returned):
        returned.close()  # else Python warns that nobody has awaited it
        raise BadPredictions(
            "the predictor returned a coroutine; make its `__call__` an `async def`, so that it is awaited"
        )
    if not isinstance(returned, Rejected):
        return to_table(aligned(returned, batch, given), batch.num_rows), []
    guilty = _guilty(returned.errors, batch.num_rows)
    values = _blanked(returned.predictions, {each.row for each in guilty})
    try:
        table = to_table(aligned(values, batch, given), batch.num_rows)
    except BadPredictions as error:
        raise BadPredictions(f"{error}{ALSO}") from error
    return without(table, guilty), guilty


def _guilty(errors: Any, rows: int) -> list[Guilty]:
    if not isinstance(errors, Mapping):
        raise BadPredictions(
            f"Rejected.errors is {_shown(errors)}; expected a mapping from row number to exception, such as {{3: ValueError('no text')}}"
        )
    return sorted((_one(row, error, rows) for row, error in errors.items()), key=lambda each: each.row)


def _one(row: Any, error: Any, rows: int) -> Guilty:
    try:
        number = operator.index(row)
    except TypeError:
        number = -1
    if not 0 <= number < rows:
        raise BadPredictions(
            f"Rejected.errors names the row {_shown(row)}; expected the numbers of rows within the batch, from 0 to {rows - 1}"
        )
    if not isinstance(error, Exception):
        raise BadPredictions(
            f"Rejected.errors holds {_shown(error)} for row {number}; expected an exception, such as ValueError('no text')"
        )
    return Guilty(number, error)


def _shown(value: Any) -> str:
    return f"{value!r:.60}"


def _blanked(values: Any, rejected: set[int]) -> Any:
    """Lists with null at the rejected rows: what stands there may be of a type that does not fit beside the others."""
    if isinstance(values, Mapping):
        return {name: _blanked(each, rejected) for name, each in values.items()}
    if isinstance(values, list | tuple):
        return [None if i in rejected else each for i, each in enumerate(values)]
    return values
