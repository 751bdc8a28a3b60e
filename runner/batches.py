"""Arrow tables in, batches for the model out, and the model's predictions back to Arrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runner.types import Input

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

DEFAULT_NAME = "prediction"


class BadPredictions(ValueError):
    """What the predictor returned cannot be the predictions of its batch."""


class DoesNotFit(ValueError):
    """A prediction that the fixed output schema cannot hold."""


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


def to_input(table: pa.Table, kind: Input) -> Any:
    """One batch as the model wants it.

    Returns:
        `arrow`: the table. `pandas`: a DataFrame with NumPy-backed columns. `numpy`: a dict of arrays, 2-D for
        fixed-size lists. `torch`: a dict of tensors, numeric columns only.
    """
    if kind == "arrow":
        return table
    if kind == "pandas":
        return table.to_pandas()
    arrays = {name: _to_numpy(table.column(name)) for name in table.column_names}
    return arrays if kind == "numpy" else {name: _to_tensor(name, array) for name, array in arrays.items()}


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunk at all
        array = pa.array([], column.type)
    if pa.types.is_fixed_size_list(array.type) and array.null_count == 0:
        return _to_numpy_of(array.flatten()).reshape(len(array), array.type.list_size)
    return _to_numpy_of(array)


def _to_numpy_of(array: pa.Array) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
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

    Args:
        predictions: A DataFrame, a Series, a mapping of columns, an array, a tensor, a list, an Arrow table, record batch
            or array. What has no name is called `prediction`; two dimensions become a fixed-size list.
        rows: Rows of the batch.

    Raises:
        BadPredictions: Another type, or another number of rows.
    """
    table = _tabled(predictions)
    if table.num_rows != rows:
        raise BadPredictions(
            f"the predictor returned {table.num_rows} predictions for a batch of {rows} rows; one per row is expected"
        )
    if len(set(table.column_names)) < table.num_columns:
        raise BadPredictions(f"the predictor returned several columns of one name: {', '.join(table.column_names)}")
    return table.replace_schema_metadata(None)


def _tabled(predictions: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(predictions, pa.Table):
        return predictions
    if isinstance(predictions, pa.RecordBatch):
        return pa.Table.from_batches([predictions])
    if _is_a(predictions, "pandas", "DataFrame"):
        return _from_frame(predictions)
    if isinstance(predictions, Mapping):
        return pa.table({str(name): _column(values) for name, values in predictions.items()})
    name = getattr(predictions, "name", None) if _is_a(predictions, "pandas", "Series") else None
    return pa.table({DEFAULT_NAME if name is None else str(name): _column(predictions)})


def _is_a(value: Any, package: str, name: str) -> bool:
    """Whether a value is of a class that may not be imported: then no value is."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _from_frame(frame: Any) -> pa.Table:
    import pyarrow as pa

    named = frame.rename(columns=str)
    return pa.Table.from_pandas(named, preserve_index=False)


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    import numpy as np
    import pyarrow as pa

    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if _is_a(values, "torch", "Tensor"):
        values = values.detach().cpu().numpy()
    if _is_a(values, "pandas", "Series"):
        return pa.array(values, from_pandas=True)
    if isinstance(values, np.ndarray):
        return _from_numpy(values)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return _from_sequence(values)
    raise BadPredictions(
        f"the predictor returned {type(values).__name__}; expected a DataFrame, Series, dict of columns, array, tensor, list or Arrow table"
    )


def _from_numpy(array: np.ndarray[Any, Any]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if array.ndim == 0:
        raise BadPredictions("the predictor returned a single value; one prediction per row is expected")
    if array.ndim == 1:
        return pa.array(array)
    width = int(np.prod(array.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array).reshape(-1)), width)


def _from_sequence(values: Sequence[Any]) -> pa.Array:
    """A list of scalars, of arrays or tensors of one shape, or of anything that Arrow itself understands."""
    import numpy as np
    import pyarrow as pa

    plain = [v.detach().cpu().numpy() if _is_a(v, "torch", "Tensor") else v for v in values]
    if plain and all(isinstance(v, np.ndarray) for v in plain) and len({v.shape for v in plain}) == 1:
        return _from_numpy(np.stack(plain))
    try:
        return pa.array([v.item() if isinstance(v, np.generic) else v for v in plain])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as mixed:
        raise BadPredictions(f"the predictor returned a list that is not of one type: {mixed}") from mixed


# ---------------------------------------------------------------- the schema of every part


def parse_schema(types: Mapping[str, str]) -> pa.Schema:
    """A declared `predict.output_schema`.

    Raises:
        ValueError: A type name that Arrow does not know, named with its column.
    """
    import pyarrow as pa

    return pa.schema([pa.field(name, parse_type(name, spelled)) for name, spelled in types.items()])


def parse_type(name: str, spelled: str) -> pa.DataType:
    """`double`, `string`, `timestamp[us]`, `list<float>`, or `list<float>[384]` for vectors of one length."""
    import re

    import pyarrow as pa

    if nested := re.fullmatch(r"list<(.+)>(?:\[(\d+)\])?", spelled.replace(" ", "")):
        inner, size = parse_type(name, nested[1]), nested[2]
        return pa.list_(inner, int(size)) if size else pa.list_(inner)
    try:
        return pa.type_for_alias(spelled)
    except ValueError:
        raise ValueError(
            f"{name}: {spelled!r} is not a type; expected one such as bool, int64, float, double, string, binary, date32, "
            "timestamp[us], list<double> or list<float>[384]"
        ) from None


def fixed_schema(probed: pa.Schema) -> pa.Schema:
    """The schema that a probe fixes, each type normalised to the one that later batches can be cast to.

    Raises:
        BadPredictions: A column of which the probe saw only nulls.
    """
    import pyarrow as pa

    if nulls := [column.name for column in probed if pa.types.is_null(column.type)]:
        raise BadPredictions(
            f"the predictions {', '.join(map(repr, nulls))} are all null in the first batch, so their type is not known; "
            f"declare it: predict.output_schema={{{nulls[0]}: double, ...}} (all columns)"
        )
    return pa.schema([pa.field(column.name, _normalised(column.type)) for column in probed])


def _normalised(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _normalised(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_normalised(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_normalised(kind.value_type))
    return kind


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast predictions to the fixed schema, without loss.

    Raises:
        BadPredictions: A column is missing or new.
        DoesNotFit: A value that the fixed type cannot hold.
    """
    if table.schema.equals(schema):
        return table
    if set(table.column_names) != set(schema.names):
        raise BadPredictions(
            f"the predictor returned the columns {table.column_names}, but the first batch fixed {schema.names}"
        )
    return _cast(table.select(schema.names), schema)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = []
    for field in schema:
        try:
            columns.append(table.column(field.name).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as lossy:
            raise DoesNotFit(
                f"prediction {field.name!r} is fixed as {field.type}, and this batch holds {table.column(field.name).type} values that do "
                f"not fit ({str(lossy).splitlines()[0]}); declare a wider type: predict.output_schema={{{field.name}: ...}}"
            ) from lossy
    return pa.table(columns, schema=schema)
