"""Puts predictions that have pandas labels into the order of the batch, and refuses labels that do not tell the order.

A batch as pandas is given with the labels 0, 1, 2, ... A Series or a DataFrame that comes back carries labels again, and often in another
order: `pd.concat` of what the models of several segments returned, a `sort_values`, a `groupby`. Its rows are put in the order of the
batch by those labels, as pandas itself does when a Series is assigned to a column. Labels that are not the batch's are refused, since
nothing tells which order they are in; so are labels that occur twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runner.arrow.predictions import is_instance_by_name
from runner.arrow.schemas import BadPredictions

if TYPE_CHECKING:
    import pyarrow as pa

REMEDY = "return it with the batch's own index, or with .reset_index(drop=True) or .to_numpy() if its rows are in the batch's order"
SHOWN_LABELS = 3


def aligned(predictions: Any, batch: pa.Table, given: Any = None) -> Any:
    """Return the predictions with their rows in the order of the batch.

    Args:
        predictions: What the predictor returned.
        batch: The rows that it was given.
        given: The batch in the form that it was given, which the predictor may have sorted in place.

    Raises:
        BadPredictions: The labels do not tell which prediction belongs to which row.
    """
    if _is_labelled(predictions):
        return _reordered(predictions, _order(predictions.index, batch))
    if isinstance(predictions, Mapping):
        return _aligned_columns(predictions, batch, given)
    if getattr(getattr(predictions, "schema", None), "pandas_metadata", None):
        return _aligned_arrow(predictions, batch)
    _refuse_sorted(given, batch.num_rows)
    return predictions


def _is_labelled(values: Any) -> bool:
    return is_instance_by_name(values, "pandas", "DataFrame") or is_instance_by_name(values, "pandas", "Series")


def _reordered(values: Any, order: Any | None) -> Any:
    return values if order is None else values.iloc[order]


def _aligned_columns(columns: Mapping[Any, Any], batch: pa.Table, given: Any) -> Mapping[Any, Any]:
    """Order each column by its own labels; refuse columns without labels beside reordered ones, since theirs could be either order."""
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
    return {name: _reordered(values, orders.get(name)) for name, values in columns.items()}


def _aligned_arrow(table: Any, batch: pa.Table) -> Any:
    """Order an Arrow table that was made from a DataFrame: it contains the labels as columns, or as a range in its metadata."""
    described = table.schema.pandas_metadata["index_columns"]
    if not described:
        return table
    order = _order(table.to_pandas().index, batch)
    unnamed = [name for name in described if isinstance(name, str) and name.startswith("__index_level_")]
    plain = table.drop_columns(unnamed)
    return plain if order is None else plain.take(order)


def _order(index: Any, batch: pa.Table) -> Any | None:
    """Return for each row of the batch the position of its prediction; `None` if the predictions are in order.

    An index with the name of a column contains the values of that column (`set_index`, `groupby`). Any other contains row numbers.
    """
    import pandas as pd

    rows = batch.num_rows
    if len(index) != rows or (index.name is None and index.equals(pd.RangeIndex(rows))):
        return None  # a wrong number of rows is an error of `to_table`
    named = isinstance(index.name, str) and index.name in batch.column_names
    labels = pd.Index(batch.column(index.name).to_pandas()) if named else pd.RangeIndex(rows)
    if index.equals(labels):
        return None
    order = _permutation(index, labels)
    if order is None:
        raise BadPredictions(_refusal(index))
    return order


def _permutation(index: Any, labels: Any) -> Any | None:
    """Return the position of each label in the index; `None` unless the index contains each label once and no other."""
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
    """Raise an error if values have no labels and the predictor sorted its batch in place.

    Raises:
        BadPredictions: It did, so the order of the values is not known.
    """
    if not is_instance_by_name(given, "pandas", "DataFrame"):
        return
    import pandas as pd

    numbers = pd.RangeIndex(rows)
    if not given.index.equals(numbers) and _permutation(given.index, numbers) is not None:
        raise BadPredictions(
            "the predictor sorted its batch in place and returned values without labels, so it is not known which rows they belong "
            "to: sort a copy, or return a Series with the batch's index"
        )
