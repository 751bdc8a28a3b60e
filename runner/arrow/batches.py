"""Cuts Arrow tables into batches of a fixed number of rows, and converts a batch into what the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from runner.types import BatchKind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the rows of the tables, in order, as tables of exactly `rows` rows; the last may be shorter."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= rows:
            missing = rows - count
            yield pa.concat_tables([*held, table.slice(0, missing)])
            held, count, table = [], 0, table.slice(missing)
        if table.num_rows:
            held.append(table)
            count += table.num_rows
    if held:
        yield pa.concat_tables(held)


def to_input(table: pa.Table, kind: BatchKind) -> Any:
    """Return a batch in the form that the model takes.

    Args:
        table: The batch.
        kind: `predict.input`.

    Returns:
        `arrow`: the table. `pandas`: a DataFrame with NumPy-backed columns. `numpy`: a dict of arrays, 2-D for
        fixed-size lists, and of one dimension more than their own for tensors of a fixed shape. `torch`: a dict of tensors, numeric
        columns only.
    """
    if kind == "arrow":
        return table
    if kind == "pandas":
        frame = table.to_pandas(
            ignore_metadata=True
        )  # so that the labels of the rows are 0, 1, 2, ..., even if the file was written by pandas
        for name in (column.name for column in table.schema if _is_tensor(column.type)):
            frame[name] = list(_to_numpy(table.column(name)))  # pandas would hold each without its shape
        return frame
    arrays = {name: _to_numpy(table.column(name)) for name in table.column_names}
    return arrays if kind == "numpy" else {name: _to_tensor(name, array) for name, array in arrays.items()}


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.nulls(0, column.type)
    if _is_tensor(array.type) and array.null_count == 0:
        return array.to_numpy_ndarray()  # type: ignore[no-any-return]
    if pa.types.is_fixed_size_list(array.type) and array.null_count == 0:
        return _to_numpy_of(array.flatten()).reshape(len(array), array.type.list_size)
    return _to_numpy_of(array)


def _is_tensor(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return isinstance(kind, pa.FixedShapeTensorType)


def _to_numpy_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return the values of an array. Plain numbers go through DLPack, which makes a view: pyarrow's own `to_numpy` imports pandas."""
    import numpy as np
    import pyarrow as pa

    plain = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    values: np.ndarray[Any, Any] = (
        np.from_dlpack(array) if plain and array.null_count == 0 else array.to_numpy(zero_copy_only=False)
    )
    return values


def _to_tensor(name: str, array: np.ndarray[Any, Any]) -> Any:
    import torch

    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"predict.input=torch: column {name!r} is {array.dtype}, not numeric; leave it out of predict.columns "
            "(pictures are, once source.size gives them one shape)"
        )
    return torch.from_numpy(
        array if array.flags.writeable else array.copy()
    )  # torch must not write into Arrow's memory
