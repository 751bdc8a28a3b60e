"""Converts what a predictor returned into an Arrow table with one row for each row of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.arrow.schemas import BadPredictions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DEFAULT_NAME = "prediction"  # of a column without a name


def to_table(predictions: Any, rows: int) -> pa.Table:
    """Return the predictions of a batch as an Arrow table with one row for each row of the batch, without metadata.

    The values are copied, because a predictor may return the same array for every batch, filled anew.

    Args:
        predictions: A DataFrame, a Series, a mapping of columns, an array, a tensor, a list, an Arrow table, record batch
            or array. A column without a name is called `prediction`; two dimensions become a fixed-size list.
        rows: Rows of the batch.

    Raises:
        BadPredictions: They have another type, another number of rows, or two columns of one name.
    """
    import pyarrow as pa

    try:
        table = _to_table(predictions)
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
    return decode_run_ends(table).replace_schema_metadata(None)


def decode_run_ends(table: pa.Table) -> pa.Table:
    """Return the table with run-end-encoded columns decoded: Arrow cannot cast them, and file formats cannot store them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for i, column in enumerate(table.schema):
        if pa.types.is_run_end_encoded(column.type):
            plain = pa.chunked_array([pc.run_end_decode(each) for each in table[i].chunks], column.type.value_type)
            table = table.set_column(i, column.name, plain)
    return table


def _to_table(predictions: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(predictions, pa.Table | pa.RecordBatch):
        return pa.table([_copied(column) for column in predictions.columns], schema=predictions.schema)
    if is_instance_by_name(predictions, "pandas", "DataFrame") or isinstance(predictions, Mapping):
        return _from_columns(predictions.items())
    if fields := getattr(getattr(predictions, "dtype", None), "names", None):  # a structured array
        return _from_columns((field, predictions[field]) for field in fields)
    name = getattr(predictions, "name", None) if is_instance_by_name(predictions, "pandas", "Series") else None
    return pa.table({DEFAULT_NAME if name is None else str(name): _column(predictions)})


def _from_columns(columns: Iterable[tuple[Any, Any]]) -> pa.Table:
    """Return a table of named columns; a name may occur twice. It is faster than `Table.from_pandas`, which also describes the frame."""
    import pyarrow as pa

    named = [(str(name), _named_column(name, values)) for name, values in columns]
    return pa.table([column for _, column in named], names=[name for name, _ in named])


def _named_column(name: Any, values: Any) -> pa.Array | pa.ChunkedArray:
    import pyarrow as pa

    try:
        return _column(values)
    except pa.ArrowException as mixed:
        raise ValueError(f"column {str(name)!r}: {mixed}") from mixed


def is_instance_by_name(value: Any, package: str, name: str) -> bool:
    """Return whether a value is an instance of a class, by the names of class and package: importing the package here would be slow."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _copied(values)
    if is_instance_by_name(values, "pandas", "Series") or is_instance_by_name(values, "pandas", "ExtensionArray"):
        return _copied(pa.array(values, from_pandas=True))
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _from_sequence(values)
    if is_instance_by_name(values, "torch", "Tensor"):
        return _from_numpy(_from_tensor(values))
    if hasattr(values, "__array__"):  # NumPy's own, and what turns into it: an index, a tensor of another library
        return _from_numpy(np.asanyarray(values))
    raise BadPredictions(
        f"the predictor returned {type(values).__name__}; expected a DataFrame, Series, dict of columns, array, tensor, "
        "list or Arrow table"
    )


def _copied(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Return a copy of an Arrow array: it is immutable itself, but may be a view of a NumPy array, which is not."""
    import pyarrow as pa

    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return pa.chunked_array([pa.concat_arrays([chunk, pa.nulls(0, chunk.type)]) for chunk in chunks], type=array.type)


def _from_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor's values as an array. bfloat16, which NumPy lacks, becomes float32, which holds every value of it."""
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
        return array_from_numpy(array)
    width = int(np.prod(array.shape[1:]))
    flat = array.reshape(-1) if isinstance(array, np.ma.MaskedArray) else np.ascontiguousarray(array).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(array_from_numpy(flat), width)


def array_from_numpy(array: np.ndarray[Any, Any]) -> pa.Array:
    """Return a one-dimensional array, copied into an Arrow array.

    For plain numbers the Arrow array is made from its buffers: the validity bitmap, absent because NumPy has no nulls, and the values.
    `pa.array` would do the same, but it imports pandas, which makes every worker start later, also in jobs that never use pandas.
    Arrow stores numbers as NumPy does, so their bytes are copied as they are. It stores booleans as bits, the first in the lowest bit of
    a byte, while NumPy uses a byte for each; so these are packed with `bitorder="little"`.

    This relies on bytes in the machine's order and without gaps: `_from_numpy` swaps other orders before, and `copy()` and `packbits`
    return contiguous memory. A masked array has nulls, so it takes the plain way, as everything does that is not a number.
    """
    import numpy as np
    import pyarrow as pa

    if array.dtype.kind not in "biuf" or isinstance(array, np.ma.MaskedArray):
        return pa.array(array.copy())
    bits = np.packbits(array, bitorder="little") if array.dtype.kind == "b" else array.copy()
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(array), [None, pa.py_buffer(bits)])


def _from_sequence(values: Sequence[Any]) -> pa.Array:
    """Return an array of a list of scalars, of arrays or tensors of one shape, or of anything that Arrow itself converts."""
    import numpy as np
    import pyarrow as pa

    plain = [_from_tensor(v) if is_instance_by_name(v, "torch", "Tensor") else v for v in values]
    if (
        plain
        and all(isinstance(v, np.ndarray | np.generic) for v in plain)
        and len({(v.shape, v.dtype) for v in plain}) == 1
    ):
        return _from_numpy(np.stack(plain))
    return pa.array([v.item() if isinstance(v, np.generic) and v.dtype.kind in "biufSU" else v for v in plain])
