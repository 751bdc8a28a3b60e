"""Arrow tables in, batches for the model out, and the model's predictions back to Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.arrow.schemas import BadPredictions
from runner.types import BatchKind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DEFAULT_NAME = "prediction"


def rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Regroup tables into tables of exactly `rows` rows, counted from the start; the last may be shorter."""
    import pyarrow as pa

    held: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= rows:
            taken = rows - count
            yield pa.concat_tables([*held, table.slice(0, taken)])
            held, count, table = [], 0, table.slice(taken)
        if table.num_rows:
            held.append(table)
            count += table.num_rows
    if held:
        yield pa.concat_tables(held)


# ---------------------------------------------------------------- to the model


def to_input(table: pa.Table, kind: BatchKind) -> Any:
    """One batch as the model wants it.

    Returns:
        `arrow`: the table. `pandas`: a DataFrame with NumPy-backed columns. `numpy`: a dict of arrays, 2-D for
        fixed-size lists. `torch`: a dict of tensors, numeric columns only.
    """
    if kind == "arrow":
        return table
    if kind == "pandas":
        return table.to_pandas(ignore_metadata=True)  # the rows are labelled 0, 1, 2, ..., whatever a source may say
    arrays = {name: _to_numpy(table.column(name)) for name in table.column_names}
    return arrays if kind == "numpy" else {name: _to_tensor(name, array) for name, array in arrays.items()}


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.nulls(0, column.type)
    if pa.types.is_fixed_size_list(array.type) and array.null_count == 0:
        return _to_numpy_of(array.flatten()).reshape(len(array), array.type.list_size)
    return _to_numpy_of(array)


def _to_numpy_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """The values, by the exchange of views where that is possible: `to_numpy` imports pandas."""
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
            f"predict.input=torch: column {name!r} is {array.dtype}, not numeric; leave it out of predict.columns"
        )
    return torch.from_numpy(
        array if array.flags.writeable else array.copy()
    )  # torch must not write into Arrow's memory


# ---------------------------------------------------------------- from the model


def to_table(predictions: Any, rows: int) -> pa.Table:
    """The predictions of a batch of `rows` rows as a table of as many rows, without metadata.

    They are copied: a predictor may fill the same array for batch after batch.

    Args:
        predictions: A DataFrame, a Series, a mapping of columns, an array, a tensor, a list, an Arrow table, record batch
            or array. What has no name is called `prediction`; two dimensions become a fixed-size list.
        rows: Rows of the batch.

    Raises:
        BadPredictions: Another type, or another number of rows.
    """
    import pyarrow as pa

    try:
        table = _tabled(predictions)
    except BadPredictions:
        raise
    except (pa.ArrowException, ValueError, TypeError) as mixed:
        raise BadPredictions(
            f"the predictor returned {type(predictions).__name__} that Arrow cannot hold: {mixed}"
        ) from mixed
    if table.num_rows != rows:
        raise BadPredictions(
            f"the predictor returned {table.num_rows} predictions for a batch of {rows} rows; one per row is expected"
        )
    if len(set(table.column_names)) < table.num_columns:
        raise BadPredictions(f"the predictor returned several columns of one name: {', '.join(table.column_names)}")
    return decoded(table).replace_schema_metadata(None)


def decoded(table: pa.Table) -> pa.Table:
    """The table with run-end-encoded columns as plain ones: Arrow casts them to nothing, and formats cannot hold them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, column in enumerate(table.schema):
        if pa.types.is_run_end_encoded(column.type):
            plain = pa.chunked_array([pc.run_end_decode(each) for each in table[i].chunks], column.type.value_type)
            table = table.set_column(i, column.name, plain)
    return table


def _tabled(predictions: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(predictions, pa.Table | pa.RecordBatch):
        return pa.table([_copied(column) for column in predictions.columns], schema=predictions.schema)
    if is_a(predictions, "pandas", "DataFrame") or isinstance(predictions, Mapping):
        return _from_columns(predictions.items())
    if fields := getattr(getattr(predictions, "dtype", None), "names", None):  # a structured array
        return _from_columns((field, predictions[field]) for field in fields)
    name = getattr(predictions, "name", None) if is_a(predictions, "pandas", "Series") else None
    return pa.table({DEFAULT_NAME if name is None else str(name): _column(predictions)})


def _from_columns(columns: Iterable[tuple[Any, Any]]) -> pa.Table:
    """Names may come twice. Of a frame too, this is all that is needed: `Table.from_pandas` also describes it, which takes longer."""
    import pyarrow as pa

    named = [(str(name), _named_column(name, values)) for name, values in columns]
    return pa.table([column for _, column in named], names=[name for name, _ in named])


def _named_column(name: Any, values: Any) -> pa.Array | pa.ChunkedArray:
    import pyarrow as pa

    try:
        return _column(values)
    except pa.ArrowException as mixed:
        raise ValueError(f"column {str(name)!r}: {mixed}") from mixed


def is_a(value: Any, package: str, name: str) -> bool:
    """Whether a value is of a class that may not be imported: then no value is."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _copied(values)
    if is_a(values, "pandas", "Series") or is_a(values, "pandas", "ExtensionArray"):
        return _copied(pa.array(values, from_pandas=True))
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _from_sequence(values)
    if is_a(values, "torch", "Tensor"):
        return _from_numpy(_from_tensor(values))
    if hasattr(values, "__array__"):  # NumPy's own, and what turns into it: an index, a tensor of another library
        return _from_numpy(np.asanyarray(values))
    raise BadPredictions(
        f"the predictor returned {type(values).__name__}; expected a DataFrame, Series, dict of columns, array, tensor, "
        "list or Arrow table"
    )


def _copied(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Arrow's arrays do not change, but the NumPy array that one may view does."""
    import pyarrow as pa

    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return pa.chunked_array([pa.concat_arrays([chunk, pa.nulls(0, chunk.type)]) for chunk in chunks], type=array.type)


def _from_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """The tensor's values; NumPy lacks bfloat16, of which float32 holds every value."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    values: np.ndarray[Any, Any] = (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy()
    return values


def _from_numpy(array: np.ndarray[Any, Any]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if array.ndim == 0:
        raise BadPredictions("the predictor returned a single value; one prediction per row is expected")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 1:
        return from_flat(array)
    width = int(np.prod(array.shape[1:]))
    flat = array.reshape(-1) if isinstance(array, np.ma.MaskedArray) else np.ascontiguousarray(array).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(from_flat(flat), width)


def from_flat(array: np.ndarray[Any, Any]) -> pa.Array:
    """One dimension, copied; plain numbers as their bytes: `pa.array` imports pandas."""
    import numpy as np
    import pyarrow as pa

    if array.dtype.kind not in "biuf" or isinstance(array, np.ma.MaskedArray):
        return pa.array(array.copy())
    bits = np.packbits(array, bitorder="little") if array.dtype.kind == "b" else array.copy()
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(bits)])


def _from_sequence(values: Sequence[Any]) -> pa.Array:
    """A list of scalars, of arrays or tensors of one shape, or of anything that Arrow itself understands."""
    import numpy as np
    import pyarrow as pa

    plain = [_from_tensor(v) if is_a(v, "torch", "Tensor") else v for v in values]
    if (
        plain
        and all(isinstance(v, np.ndarray | np.generic) for v in plain)
        and len({(v.shape, v.dtype) for v in plain}) == 1
    ):
        return _from_numpy(np.stack(plain))
    return pa.array([v.item() if isinstance(v, np.generic) and v.dtype.kind in "biufSU" else v for v in plain])
