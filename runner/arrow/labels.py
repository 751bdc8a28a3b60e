"""Which row of a batch each prediction belongs to, where pandas' labels tell: rows are never swapped by position.

A batch as pandas is given with the labels 0, 1, 2, ... A Series or a DataFrame that comes back carries labels again, and often in another
order: `pd.concat` of what the models of several segments returned, a `sort_values`, a `groupby`. Its rows are put in the order of the
batch by those labels, as pandas itself does when a Series is assigned to a column. Labels that are not the batch's are refused, since
nothing tells which order they are in; so are labels that occur twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.arrow.batches import is_a
from runner.arrow.schemas import BadPredictions

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "return it with the batch's own index, or with .reset_index(drop=True) or .to_numpy() if its rows are in the batch's order"
SHOWN_LABELS = 3


def aligned(predictions: Any, batch: pa.Table, given: Any = None) -> Any:
    """The predictions with their rows in the order of the batch.

    Args:
        predictions: What the predictor returned.
        batch: The rows that it was asked for.
        given: The batch as the predictor got it; it may have been sorted in place since.

    Raises:
        BadPredictions: The labels do not tell which prediction belongs to which row.
    """
    if _is_labelled(predictions):
        return _taken(predictions, _order(predictions.index, batch))
    if isinstance(predictions, Mapping):
        return _aligned_columns(predictions, batch, given)
    if getattr(getattr(predictions, "schema", None), "pandas_metadata", None):
        return _aligned_arrow(predictions, batch)
    _refuse_sorted(given, batch.num_rows)
    return predictions


def _is_labelled(values: Any) -> bool:
    return is_a(values, "pandas", "DataFrame") or is_a(values, "pandas", "Series")


def _taken(values: Any, order: Any | None) -> Any:
    return values if order is None else values.iloc[order]


def _aligned_columns(columns: Mapping[Any, Any], batch: pa.Table, given: Any) -> Mapping[Any, Any]:
    """Each column by its own labels; beside columns in another order, one without labels could mean either order."""
    orders = {name: _order(values.index, batch) for name, values in columns.items() if _is_labelled(values)}
    bare = [name for name in columns if name not in orders]
    moved = [name for name, order in orders.items() if order is not None]
    if moved and bare:
        raise BadPredictions(
            f"the predictor returned the column {moved[0]!r} with labels in another order than the batch's, and {bare[0]!r} without "
            "labels, so it is not known which of them belong together: return one DataFrame, or Series with labels only"
        )
    if bare:
        _refuse_sorted(given, batch.num_rows)
    return {name: _taken(values, orders.get(name)) for name, values in columns.items()}


def _aligned_arrow(table: Any, batch: pa.Table) -> Any:
    """An Arrow table that was made from a frame holds the frame's labels too: as columns, or as a range in its metadata."""
    described = table.schema.pandas_metadata["index_columns"]
    if not described:
        return table
    order = _order(table.to_pandas().index, batch)
    unnamed = [name for name in described if isinstance(name, str) and name.startswith("__index_level_")]
    plain = table.drop_columns(unnamed)
    return plain if order is None else plain.take(order)


def _order(index: Any, batch: pa.Table) -> Any | None:
    """For each row of the batch, the position of its prediction; `None` where they are in order.

    An index that has the name of a column holds that column's values (`set_index`, `groupby`), any other the numbers of the rows.
    """
    import pandas as pd

    rows = batch.num_rows
    if len(index) != rows or (index.name is None and index.equals(pd.RangeIndex(rows))):
        return None  # another number of rows is told where rows are counted
    named = isinstance(index.name, str) and index.name in batch.column_names
    labels = pd.Index(batch.column(index.name).to_pandas()) if named else pd.RangeIndex(rows)
    if index.equals(labels):
        return None
    order = _permutation(index, labels)
    if order is None:
        raise BadPredictions(_refusal(index))
    return order


def _permutation(index: Any, labels: Any) -> Any | None:
    """Where in the index each of the labels is; `None` unless it holds each once and no other."""
    if index.nlevels > 1 or len(index) != len(labels) or not (index.is_unique and labels.is_unique):
        return None
    order = index.get_indexer(labels)
    return order if (order >= 0).all() else None


def _refusal(index: Any) -> str:
    shown = f"{', '.join(repr(label) for label in index[:SHOWN_LABELS].tolist())}, ..."
    if index.nlevels == 1 and not index.is_unique:
        twice = index[index.duplicated()].tolist()[0]
        why = (
            f"its index holds the label {twice!r} twice (pd.concat of parts that were numbered anew: ignore_index=True)"
        )
    else:
        why = f"its index ({shown}) holds other labels than the batch's row numbers"
    return f"the predictor returned a pandas object of which {why}, so it is not known which rows its predictions belong to: {REMEDY}"


def _refuse_sorted(given: Any, rows: int) -> None:
    """Refuse values without labels where the predictor put its batch in another order in place.

    Raises:
        BadPredictions: It did.
    """
    if not is_a(given, "pandas", "DataFrame"):
        return
    import pandas as pd

    numbers = pd.RangeIndex(rows)
    if not given.index.equals(numbers) and _permutation(given.index, numbers) is not None:
        raise BadPredictions(
            "the predictor sorted its batch in place and returned values without labels, so it is not known which rows they belong "
            "to: sort a copy, or return a Series with the batch's index"
        )
