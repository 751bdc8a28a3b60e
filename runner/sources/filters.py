"""Turns row filters of a config (pyarrow's list of tuples) into pyarrow expressions, and finds what they allow to skip unread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError
from runner.sources.schemas import nearest_column
from runner.types import Filters

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_COLUMNS = 30
OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=", "in", "not in")
COMPARISONS = frozenset({"=", "==", "<", ">", "<=", ">="})


def conjunctions(filters: Filters) -> list[list[Sequence[Any]]]:
    """Return the filters as a list of lists of (column, operator, value). A row passes if all terms of one list hold for it.

    Raises:
        ConfigError: The filters do not have this form.
    """
    if not filters:
        return []
    nested = all(isinstance(each, list | tuple) and each and isinstance(each[0], list | tuple) for each in filters)
    any_of = [list(each) for each in filters] if nested else [list(filters)]
    if not all(_is_term(term) for terms in any_of for term in terms):
        raise ConfigError(
            f'source.filters={filters}: expected [[column, operator, value], ...], such as [[age, ">", 3]]'
        )
    return any_of


def _is_term(term: Any) -> bool:
    return isinstance(term, list | tuple) and len(term) == 3 and isinstance(term[0], str)


def filter_columns(filters: Filters) -> list[str]:
    """Return the columns that the filters use, each once."""
    return list(dict.fromkeys(term[0] for terms in conjunctions(filters) for term in terms))


def filter_expression(filters: Filters, schema: pa.Schema) -> pa.Expression | None:
    """Pyarrow's expression for the filters, values cast to the columns' types (YAML dates are strings).

    Raises:
        ConfigError: A column, an operator or a value that does not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not filters:
        return None
    try:
        typed = [[_typed(term, schema) for term in terms] for terms in conjunctions(filters)]
        expression = pq.filters_to_expression(typed)
        schema.empty_table().filter(expression)
    except (ValueError, TypeError, KeyError, pa.ArrowException) as wrong:
        told = next(iter(str(wrong).splitlines()), "") or type(wrong).__name__
        raise ConfigError(f"source.filters={_shown(filters)}: {told}") from wrong
    return expression


def _shown(filters: Filters) -> list[Any]:
    """Return the filters in a config's spelling: a single list of terms that must all hold needs no list around it."""
    any_of = conjunctions(filters)
    return list(any_of[0]) if len(any_of) == 1 else list(any_of)


def _typed(term: Sequence[Any], schema: pa.Schema) -> tuple[str, str, Any]:
    name, operator, value = term
    if name not in schema.names:
        has = ", ".join(islice(schema.names, SHOWN_COLUMNS))
        raise ValueError(f"there is no column {name!r}{nearest_column(name, schema.names)}; the data has {has}")
    if operator not in OPERATORS:
        raise ValueError(f"{operator!r} is no operator; expected one of {', '.join(OPERATORS)}")
    kind = _compared_as(schema.field(name).type)
    if operator in {"in", "not in"}:
        return name, operator, _typed_set(value, kind)
    return name, operator, _typed_value(value, kind)


def _compared_as(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _typed_set(values: Any, kind: pa.DataType) -> pa.Array:
    """Return the values of a set in the column's type. A value that this type cannot hold is left out: it equals no value of the column."""
    import pyarrow as pa

    if not isinstance(values, list | tuple | set):
        raise ValueError(f"expected a list of values, not {values!r}")
    held = (scalar for scalar in (_typed_value(each, kind) for each in values) if scalar.type == kind)
    return pa.array([scalar.as_py() for scalar in held], kind)


def _typed_value(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return the value in the column's type; a fraction that is compared with whole numbers stays a fraction."""
    import pyarrow as pa

    exact = pa.types.is_decimal(kind) and isinstance(value, int | float) and not isinstance(value, bool)
    scalar = pa.scalar(
        Decimal(str(value)) if exact else value
    )  # a number has not the digits that a decimal column wants
    if pa.types.is_floating(scalar.type) and pa.types.is_integer(kind) and not float(value).is_integer():
        return scalar
    return scalar.cast(kind)


# ---------------------------------------------------------------- skipping


def skipping_filter(filters: Filters, schema: pa.Schema, unseen: Iterable[str] = ()) -> pa.Expression | None:
    """Return a weaker filter that may be decided by statistics: every row that it excludes, the exact filters exclude too.

    Statistics of floating-point columns ignore NaN, which is unequal to everything, and they know one zero where sets know two. So only
    plain comparisons of these columns are kept.

    Args:
        filters: The exact filters.
        schema: Types of the columns that they use.
        unseen: Columns that have no statistics.
    """
    hidden = set(unseen)
    kept = [
        [term for term in terms if term[0] not in hidden and _is_decidable(term, schema)]
        for terms in conjunctions(filters)
    ]
    return filter_expression(kept, schema) if all(kept) else None


def decidable(filters: Filters, schema: pa.Schema) -> list[list[tuple[str, str, Any]]]:
    """Return those terms of each list that statistics may decide, with values as Python has them in the column's type."""
    return [
        [(name, operator, value.to_pylist() if operator in {"in", "not in"} else value.as_py())
         for name, operator, value in (_typed(term, schema) for term in terms if _is_decidable(term, schema))]
        for terms in conjunctions(filters)
    ]  # fmt: skip


def _is_decidable(term: Sequence[Any], schema: pa.Schema) -> bool:
    import pyarrow as pa

    if not pa.types.is_floating(schema.field(term[0]).type):
        return True
    return term[1] in COMPARISONS and not (isinstance(term[2], float) and math.isnan(term[2]))


def passing(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, filters: Filters) -> list[bool]:
    """Return for each row whether it could pass the filters, as far as the columns that the rows have decide this."""
    import pyarrow as pa

    kept = [[term for term in terms if term[0] in schema.names] for terms in conjunctions(filters)]
    if not kept or not all(kept):
        return [True] * len(rows)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    numbered = table.append_column("", pa.array(range(len(rows)), pa.int64()))
    passed = set(numbered.filter(filter_expression(kept, schema)).column("").to_pylist())
    return [number in passed for number in range(len(rows))]
