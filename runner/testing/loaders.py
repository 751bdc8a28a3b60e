"""What a model loader and its predictor promise, as a check."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from runner.arrow.batches import to_input
from runner.arrow.isolate import Failed, Good
from runner.arrow.predictions import to_table
from runner.arrow.schemas import BadPredictions, fixed_schema
from runner.errors import ConfigError
from runner.predictor.calling import LocalCaller, is_async
from runner.predictor.shipping import Shipper, loaded
from runner.types import (
    BatchKind,
    Caller,
    Predictor,
)
from runner.words import exceptions
from runner.worker.predicting import Predicting

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


CLOSE = 1e-4  # relative and absolute: libraries add up in another order where a batch has another size


def check_loader(
    load: Callable[[], Predictor],
    batch: pa.Table | pd.DataFrame,
    *,
    kind: BatchKind = "pandas",
    load_on: Literal["driver", "worker"] = "driver",
    repeatable: bool = True,
) -> None:
    """Hold a model loader, and the predictor that it returns, against what runs rely on.

    Args:
        load: The loader with its arguments: `partial(load, path="m.bin")`.
        batch: At least two rows that the model predicts; it may reject some of the others.
        kind: The form in which the predictor gets a batch: `predict.input`.
        load_on: `worker` for a predictor that cannot be pickled: whoever uses it gives `predict.load_on=worker`.
        repeatable: Whether a row is always predicted alike, whatever rows stand beside it.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Predictor`.
    """
    import pyarrow as pa

    table = batch if isinstance(batch, pa.Table) else pa.Table.from_pandas(batch, preserve_index=False)
    assert table.num_rows >= 2, "give the check two rows or more"
    predictor = _check_loaded(load)
    names, rows = _check_whole(predictor, table, kind)
    _check_input_kept(predictor, table, kind)
    _check_empty(predictor, table, kind, names)
    in_two = _in_two(predictor, table, kind)
    assert len(in_two) == len(rows), "each row of a batch must have its prediction, also in another division"
    assert not repeatable or _alike(rows, in_two), (
        "the predictions of a row must not depend on the rows beside it, nor on what was prepared in the meantime: a batch in two pieces "
        f"gives {in_two}, in one piece {rows}; give repeatable=False if that is meant"
    )
    if load_on == "driver":
        travelled = _predicted(LocalCaller(_check_pickled(load)), table, kind)[1]
        assert not repeatable or _alike(rows, travelled), (
            f"a predictor that has been pickled must predict the same: {travelled} is not {rows}"
        )


class _InTwo(LocalCaller):
    """Gives the predictor a batch in two pieces, the second of which is prepared before the first is predicted."""

    concurrency = 2


def _in_two(predictor: Predictor, table: pa.Table, kind: BatchKind) -> list[Any]:
    """An `async` one says itself how many calls it takes at once, so it gets the pieces one after the other."""
    if is_async(predictor):
        return _predicted(LocalCaller(predictor), table, kind, pieces=2)[1]
    return _predicted(_InTwo(predictor), table, kind)[1]


def _check_loaded(load: Callable[[], Predictor]) -> Predictor:
    try:
        predictor = loaded(load)
    except TypeError as error:
        raise AssertionError(str(error)) from error
    assert is_async(predictor) or not hasattr(predictor, "concurrency"), (
        "`concurrency` has no effect where `__call__` is not `async def`"
    )
    return predictor


def _check_whole(predictor: Predictor, table: pa.Table, kind: BatchKind) -> tuple[list[str], list[Any]]:
    """The names of the predictions, and the predictions."""
    found, rows = _predicted(LocalCaller(predictor), table, kind)
    assert found is not None, "the predictor must not reject every row: give the check rows that it predicts"
    try:
        fixed_schema(found.schema)
    except BadPredictions as error:
        raise AssertionError(str(error)) from error
    return found.column_names, rows


def _predicted(
    caller: Caller, table: pa.Table, kind: BatchKind, *, pieces: int = 1
) -> tuple[pa.Table | None, list[Any]]:
    """The predictions as a table, and for each row of the batch its predictions; `None` where it is rejected."""
    import pyarrow as pa

    good, rejected = list[Any](), set[int]()
    for each in Predicting(caller, table.column_names, kind, None, pieces=pieces).attempt(table):
        if isinstance(each, Failed):
            raise AssertionError(
                f"the predictor must predict the batch: {exceptions.describe(each.error)}"
            ) from each.error
        if isinstance(each, Good):
            good.append(each.result)
        else:
            rejected.add(each.row)
    found = pa.concat_tables(good, promote_options="permissive") if good else None
    values = iter([] if found is None else found.to_pylist())
    return found, [None if row in rejected else next(values) for row in range(table.num_rows)]


def _check_input_kept(predictor: Predictor, table: pa.Table, kind: BatchKind) -> None:
    given = to_input(table, kind)
    before = _shown(given, table.num_rows)
    LocalCaller(predictor)([given])
    assert _shown(given, table.num_rows) == before, "the predictor must not change its batch: let it change a copy"


def _shown(given: Any, rows: int) -> str:
    table = to_table(given, rows)
    return f"{table.schema} {table.to_pylist()}"


def _check_empty(predictor: Predictor, table: pa.Table, kind: BatchKind, names: Sequence[str]) -> None:
    """A batch without rows gives predictions without rows, or any error."""
    for each in Predicting(LocalCaller(predictor), table.column_names, kind, None).attempt(table.slice(0, 0)):
        wrong = isinstance(each, Failed) and isinstance(each.error, BadPredictions)
        assert not wrong, f"an empty batch must give empty predictions, or raise: {each}"
        if isinstance(each, Good):
            found: Any = each.result
            assert found.column_names == names, (
                f"an empty batch must give the columns that others give, {names}, or raise: {found.column_names}"
            )


def _check_pickled(load: Callable[[], Predictor]) -> Predictor:
    try:
        parcel = Shipper(load, on_driver=True).packed()
    except ConfigError as error:
        raise AssertionError(f"{error}; then give this check load_on='worker'") from error
    predictor: Predictor = parcel.unpack().held
    return predictor


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
