"""Reads columns from a batch of any kind, and gives names to a model's output.

A batch has the type that `predict.input` says: a DataFrame, an Arrow table, or a dict of NumPy arrays or CPU tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.worker.columns import WrongColumns, compared

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, Any]


def names(batch: Any) -> list[str]:
    """Return the names of a batch's columns, in its order.

    Raises:
        TypeError: The value is no batch.
    """
    if isinstance(batch, Mapping):
        return list(batch)
    if _is_frame(batch):
        return list(batch.columns)
    if hasattr(batch, "schema"):
        return list(batch.schema.names)
    raise TypeError(
        f"a batch of type {type(batch).__name__} has no columns; "
        "expected a DataFrame, an Arrow table or a dict of arrays"
    )


def require(batch: Any, columns: Sequence[str]) -> None:
    """Raise an error if the batch lacks one of these columns.

    Raises:
        WrongColumns: Columns are missing; the message names them and says what to do.
    """
    present = names(batch)
    if any(column not in present for column in columns):
        raise WrongColumns(compared(columns, present))


def matrix(batch: Any, columns: Sequence[str], dtype: str) -> Array:
    """Return columns as one matrix, converted in one pass.

    Args:
        batch: A batch of any kind.
        columns: Numeric columns, in the order of the result.
        dtype: NumPy's name for the type of the result.

    Returns:
        A C-contiguous array of shape `[rows, len(columns)]`. Nulls are NaN.

    Raises:
        ValueError: A column is missing, is not numeric, or has nulls or other values that `dtype` cannot
            hold.
    """
    import numpy as np

    require(batch, columns)
    arrays = [_array(batch, name) for name in columns]
    rows = len(arrays[0]) if arrays else 0
    result = np.empty((rows, len(columns)), dtype=dtype)
    for position, (name, array) in enumerate(zip(columns, arrays, strict=True)):
        _fill(result[:, position], name, array)
    return result


def frame(batch: Any, columns: Sequence[str] | None) -> pd.DataFrame:
    """Return a batch as a DataFrame.

    Args:
        batch: A batch of any kind.
        columns: The columns of the result; `None` for all that the batch has.

    Raises:
        ValueError: A column is missing.
    """
    import pandas as pd

    wanted = names(batch) if columns is None else list(columns)
    require(batch, wanted)
    if isinstance(batch, Mapping):
        return pd.DataFrame({name: _array(batch, name) for name in wanted})
    selected: pd.DataFrame = batch[wanted] if _is_frame(batch) else batch.select(wanted).to_pandas()
    return selected


def named(values: Array, output: str | list[str]) -> dict[str, Array]:
    """Return a model's output as named columns.

    Args:
        values: Shape `[rows]`, `[rows, 1]` or `[rows, k]`.
        output: One name, or one for each of the k values.

    Returns:
        For one name, that column: scalars, or vectors of k values (an array of shape `[rows, k]`). For a list
        of names, a column of scalars each.

    Raises:
        ValueError: There is no row axis, or the names are not as many as the values per row.
    """
    if values.ndim == 0:
        raise ValueError("the model returned a single value for the whole batch; one per row is expected")
    if isinstance(output, str):
        return {output: squeezed(values)}
    columns = values[:, None] if values.ndim == 1 else values
    if columns.ndim != 2 or columns.shape[1] != len(output):
        raise ValueError(
            f"model.output={output} names {len(output)} columns, but the model's output has shape "
            f"{list(values.shape)}; give a name for each value of a row, or one name for a column of vectors"
        )
    return {name: columns[:, position] for position, name in enumerate(output)}


def squeezed(values: Array) -> Array:
    """Return a matrix of one column as a vector; everything else is returned unchanged."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def _is_frame(batch: Any) -> bool:
    return hasattr(batch, "iloc")


def _array(batch: Any, name: str) -> Array:
    """Return one column as a NumPy array; nulls are NaN, or None in an array of objects."""
    import numpy as np

    if isinstance(batch, Mapping):
        return np.asarray(batch[name])
    if not _is_frame(batch):
        return np.asarray(batch.column(name).to_numpy(zero_copy_only=False))
    column = batch[name]
    nullable = not isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
    return np.asarray(column.to_numpy(na_value=np.nan) if nullable else column.to_numpy())


def _fill(into: Array, name: str, values: Array) -> None:
    import numpy as np

    if values.dtype.kind in "mMSU":  # NumPy would convert dates to numbers of ticks without a warning
        raise ValueError(f"column {name!r} is {values.dtype}, not numeric; compute features from it in model.collate")
    try:
        with np.errstate(invalid="raise" if into.dtype.kind == "i" else "ignore", over="raise"):
            into[:] = values  # `invalid="raise"`, because NaN would become the smallest integer
    except (TypeError, ValueError, FloatingPointError) as error:
        raise ValueError(
            f"column {name!r} ({values.dtype}) has values that do not convert to {into.dtype}: {error}"
        ) from error
