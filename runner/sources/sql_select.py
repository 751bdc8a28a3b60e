"""The statements that read rows of a table or a query: where the rows are, which pass the filters, and which key range they lie in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from runner.databases import statements
from runner.databases.catalog import Column
from runner.databases.dialects import STANDARD, Dialect
from runner.databases.values import Values, parameter_types
from runner.sources.filters import conjunctions
from runner.types import Filters, Fragment

if TYPE_CHECKING:
    import pyarrow as pa

NAMED = re.compile(r'(?:"((?:[^"]|"")+)"\.)?"((?:[^"]|"")+)"')
PARAMS = " -- source.params="
OF_A_TEXT = 32  # bytes
RANGE, NULLS = "range", "null keys"  # the first element of a fragment's span


@dataclass(frozen=True)
class Relation:
    """What is read: a table, or a query with its parameters.

    Attributes:
        table: Its name; `None` for a query.
        schema: The schema that the table lies in, `None` for the default one.
        query: One statement, on one line.
        params: Its values, by name or in order.
    """

    table: str | None = None
    schema: str | None = None
    query: str = ""
    params: Mapping[str, Any] | Sequence[Any] = field(default_factory=tuple)

    def name(self, place: str) -> str:
        """Return the name of the input, which tells all that is needed to read it: a recorded plan may be read by a later job."""
        what = self.query if self.table is None else STANDARD.quoted(self.schema, self.table)
        params = f"{PARAMS}{json.dumps(self.params, ensure_ascii=False)}" if self.params else ""
        return f"{place.replace('#', '%23')}#{what}{params}"

    @staticmethod
    def named(name: str) -> Relation:
        """Return the relation with this name."""
        what = name.partition("#")[2]
        if table := NAMED.fullmatch(what):
            schema, own = (part and part.replace('""', '"') for part in table.groups())
            return Relation(own, schema)
        query, mark, params = what.rpartition(PARAMS)
        return Relation(query=query, params=json.loads(params)) if mark else Relation(query=what)

    def sql(self, connection: Any, dialect: Dialect, values: Values) -> str:
        """Return SQL that can stand behind FROM; the values of its parameters are added to the others."""
        if self.table is not None:
            return dialect.quoted(self.schema, self.table)
        types: list[str] = []
        if dialect.name == "postgresql" and self.params:
            types = parameter_types(connection, partial(_with_placeholders, self), self._count())
        return f"({statements.bound(self.query, self.params, lambda value, i: values.add(value, types[i] if types else None))})"

    def _count(self) -> int:
        count = 0

        def counted(_: Any, i: int) -> str:
            nonlocal count
            count = i + 1
            return ""

        statements.bound(self.query, self.params, counted)
        return count


def _with_placeholders(relation: Relation, places: list[str]) -> str:
    return statements.bound(relation.query, relation.params, lambda _, i: places[i])


@dataclass(frozen=True)
class Select:
    """How rows are selected; it is the same on the driver and in workers.

    Attributes:
        dialect: Of the database.
        columns: All that the relation has.
        filters: pyarrow's list of tuples.
    """

    dialect: Dialect
    columns: Sequence[Column]
    filters: Filters = None

    def column(self, name: str) -> Column:
        """Return the column with this name."""
        return next(each for each in self.columns if each.name == name)

    def of_row(self, name: str) -> str:
        """Return SQL for a column of the relation. Alone, its name might mean what is selected under the same name."""
        return f"runner_rows.{self.dialect.quoted(name)}"

    def rows(self, relation: str, values: Values, fragment: Fragment | None = None, condition: str = "") -> str:
        """Return FROM and WHERE for the rows that pass the filters, lie in a fragment, and fulfil a further condition."""
        passing = _filters(self, values)  # values are bound in the order of the text
        within = self._range(fragment.span, values) if fragment and fragment.span else []
        conditions = " AND ".join([*passing, *within, *([condition] if condition else [])])
        return f"FROM {relation} AS runner_rows{' WHERE ' if conditions else ''}{conditions}"

    def _range(self, span: tuple[Any, ...], values: Values) -> list[str]:
        kind, key, *ends = span
        name = self.of_row(key)
        if kind == NULLS:
            return [f"{name} IS NULL"]
        sql, low, high, closed, _ = ends
        return [
            f"{name} >= {values.add(low, sql or None)}",
            f"{name} {'<=' if closed else '<'} {values.add(high, sql or None)}",
        ]

    def order(self, fragment: Fragment) -> str:
        """Return the ORDER BY that gives the rows of a fragment in the same order each time.

        A key that is unique is enough. Rows with the same key are ordered by everything else in them; rows that are then still equal
        have no order, and need none.
        """
        span = fragment.span
        key = [self.of_row(span[1])] if span and span[0] == RANGE else []
        if span and span[0] == RANGE and span[-1]:
            return f"ORDER BY {key[0]}"
        if self.dialect.name == "postgresql":  # not every type has an order there, but every row has a text
            names = [*key, 'CAST(runner_rows AS text) COLLATE "C"']
        else:
            names = [*dict.fromkeys([*key, *(self.of_row(each.name) for each in self.columns)])]
        return f"ORDER BY {', '.join(names)}"

    def expression(self, column: Column, typed: bool = True) -> str:
        """Return what is selected for a column; not `typed` if it is given as text because the job does not read it."""
        name, own = self.dialect.quoted(column.name), self.of_row(column.name)
        if self.dialect.name == "sqlite":
            text = f"CASE typeof({own}) WHEN 'blob' THEN hex({own}) ELSE CAST({own} AS TEXT) END AS {name}"
            return own if typed else text
        if column.as_text or column.arrow is None:
            return f"CAST({own} AS {'text' if self.dialect.name == 'postgresql' else 'VARCHAR'}) AS {name}"
        return own


def _filters(select: Select, values: Values) -> list[str]:
    any_of = [
        " AND ".join(_term(select, term, values) for term in terms) or "1 = 1" for terms in conjunctions(select.filters)
    ]
    return [f"({' OR '.join(f'({each})' for each in any_of)})"] if any_of else []


def _term(select: Select, term: Sequence[Any], values: Values) -> str:
    """Return SQL for one term. As pyarrow has it, `not in` lets nulls pass, and all other comparisons do not."""
    name, operator, value = term
    column, quoted = select.column(name), select.of_row(name)
    if operator not in {"in", "not in"}:
        return f"{quoted} {'<>' if operator == '!=' else '=' if operator == '==' else operator} {_bound(column, value, values)}"
    among = ", ".join(_bound(column, each, values) for each in value)
    if operator == "in":
        return f"{quoted} IN ({among})" if among else "1 = 0"
    return f"({quoted} NOT IN ({among}) OR {quoted} IS NULL)" if among else "1 = 1"


def _bound(column: Column, value: Any, values: Values) -> str:
    """Return SQL for a value that is compared with a column; a fraction stays one beside whole numbers."""
    import pyarrow as pa

    whole = column.arrow is not None and pa.types.is_integer(column.arrow)
    if whole and isinstance(value, float) and not value.is_integer():
        return values.add(value, "double precision")
    return values.add(int(value) if whole and isinstance(value, float) else value, column.sql or None)


def width(kind: pa.DataType | None) -> int:
    """Return about how many bytes a value of a type takes."""
    try:
        return 8 if kind is None else max(1, kind.bit_width // 8)
    except ValueError:
        return OF_A_TEXT
