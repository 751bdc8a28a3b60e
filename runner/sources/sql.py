"""The source `Sql`: rows of a table or a query in a database, by ranges of a key."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from runner.databases import catalog, statements
from runner.databases.catalog import Column
from runner.databases.database import Database, database_at, execute
from runner.databases.errors import DatabaseError, ValueRefused
from runner.databases.snapshots import connected, exported
from runner.databases.values import Values
from runner.errors import ConfigError
from runner.sources.filters import conjunctions, filter_columns, filter_expression
from runner.sources.schemas import refuse_missing
from runner.sources.sql_ranges import ranges
from runner.sources.sql_reader import SqlReader
from runner.sources.sql_select import NULLS, Relation, Select, width
from runner.types import Filters, Fragment, Input, Positive, Source

if TYPE_CHECKING:
    import pyarrow as pa

PLAIN = (str, int, float, bool, type(None), list)


@dataclass(frozen=True)
class Sql(Source):
    """A source that reads a table or a query of a database over ADBC.

    Attributes:
        uri: `postgresql://host/database`, `sqlite:///file.db`, `duckdb:///file.db`, or what `driver` understands.
        driver: Name or path of an ADBC driver; `None` for the one that the URI needs.
        schema: The schema of the database that the table lies in; `None` for the default one.
        table: A table or a view, by its name as it is, whatever characters that has.
        query: Or one statement that reads.
        params: Values for the placeholders of the query: by name (`:day`), or in order (`?` or `$1`).
        key: The column by whose ranges the rows are divided; `None` for the primary key of a table, if that is one column.
        fragment_rows: Rows of a range.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples (`[["age", ">", 3]]`), or a list of such lists, of which one must hold.
        options: Options of the driver.
        allow_empty: Whether no row at all is a success.
    """

    piece: ClassVar[str] = "range"
    _tolerant: ClassVar[bool] = False

    uri: str
    driver: str | None = None
    schema: str | None = None
    table: str | None = None
    query: str | None = None
    params: dict[str, Any] | list[Any] | None = None
    key: str | None = None
    fragment_rows: Positive = 50_000
    columns: list[str] | None = None
    filters: Filters = None
    options: dict[str, Any] = field(default_factory=dict)
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Report all that can be known to be wrong without connecting.

        Raises:
            ConfigError: With every problem.
        """
        problems = [*self._problems()]
        for check in (lambda: self._database, lambda: conjunctions(self.filters)):
            try:
                check()
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        if (self.table is None) == (self.query is None):
            yield "source: expected one of source.table and source.query"
        if self.query is None:
            if self.params:
                yield "source.params: are the values of a source.query, and there is none"
            return
        if self.schema is not None:
            yield f"source.schema={self.schema}: belongs to source.table; in a query, write it before the table"
        if wrong := statements.problem(self.query):
            yield f"source.query: {wrong}"
        yield from (
            f"source.query: {each}"
            for each in statements.placeholders(self.query, {} if self.params is None else self.params)
        )
        given = self.params or ()
        named = given.items() if isinstance(given, Mapping) else enumerate(given)
        yield from (
            f"source.params.{name}: is a {type(value).__name__}; expected a text, a number, true, false, null or a list"
            for name, value in named
            if not isinstance(value, PLAIN)
        )

    @cached_property
    def _database(self) -> Database:
        return database_at("source", self.uri, self.driver, self.options)

    @property
    def _relation(self) -> Relation:
        if self.query is not None:
            return Relation(query=statements.one_line(self.query), params=self.params or ())
        return Relation(self.table, self.schema)

    def tolerant(self) -> Sql:
        """Return the same source, which puts rows aside whose values do not fit their columns, as SQLite can have them."""
        other = copy.copy(self)
        vars(other)["_tolerant"] = True
        return other

    def settings(self) -> Mapping[str, Any]:
        """Return what decides which rows of its input there are, and what they hold.

        A table or a query with its parameters is the input itself, as a path is.
        """
        return {"filters": self.filters, **({} if self.columns is None else {"columns": self.columns})}

    # ---------------------------------------------------------------- what is there

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Hold a snapshot, which all workers read."""
        with exported(self._database) as snapshot:
            vars(self)["_snapshot"] = snapshot
            try:
                yield
            finally:
                del vars(self)["_snapshot"]

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """Yield a connection. What the database refuses is wrong with the config.

        Raises:
            ConfigError: Naming the table and those with similar names, if there is no such table.
        """
        try:
            with connected(self._database, vars(self).get("_snapshot")) as connection:
                yield connection
        except (DatabaseError, ValueRefused) as refused:
            raise ConfigError(self._unknown_table() or str(refused)) from None

    def _unknown_table(self) -> str | None:
        """Return that there is no such table; `None` if there is, or if that cannot be found out."""
        if self.table is None:
            return None
        try:
            with connected(self._database) as connection:
                there = catalog.tables(connection, self._database.dialect, self.schema)
        except OSError:
            return None
        if not there or self.table in there:
            return None
        near = get_close_matches(self.table.casefold(), [each.casefold() for each in there], 3)
        close = [each for each in there if each.casefold() in near]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are {', '.join(there[:10])}"
        within = f" in the schema {self.schema!r}" if self.schema else ""
        return f"source.table={self.table}: there is no such table{within} in {self._database.shown}; {hint}"

    @cached_property
    def _columns(self) -> list[Column]:
        """Return all columns of the table or the query."""
        with self._connected() as connection:
            values = Values(self._database.dialect)
            relation = self._relation.sql(connection, self._database.dialect, values)
            found = catalog.columns_of(connection, self._database.dialect, relation, values)
        names = [each.name for each in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(
                f"source.query: gives several columns the name {twice[0]!r}; name each of them: ... AS name"
            )
        return found

    @property
    def _select(self) -> Select:
        return Select(self._database.dialect, self._columns, self.filters)

    def inputs(self) -> list[Input]:
        """Return the table or the query as one input; none if it has no rows and may be empty.

        Raises:
            ConfigError: There is no such table, or it has no rows, or the filters do not fit.
        """
        columns = self._columns
        self._refuse_unfit_filters()
        with self._connected() as connection:
            values, select = Values(self._database.dialect), self._select
            rows = select.rows(self._relation.sql(connection, self._database.dialect, values), values)
            there = execute(connection, f"SELECT 1 AS one {rows} LIMIT 1", values.ready(connection)).num_rows
        if not there:
            return self._none()
        size = sum(width(each.arrow) for each in columns)
        digest = hashlib.blake2b(json.dumps([(each.name, each.sql) for each in columns]).encode(), digest_size=8)
        return [Input(self._relation.name(self._database.place), size, digest.hexdigest())]

    def _none(self) -> list[Input]:
        if self.allow_empty:
            return []
        what = "source.query" if self.table is None else f"source.table={self.table}"
        passing = f" that passes source.filters={self.filters}" if self.filters else ""
        raise ConfigError(f"{what}: has no row{passing} (source.allow_empty=true makes an empty input a success)")

    def _refuse_unfit_filters(self) -> None:
        """Raise an error for a filter whose column is not there, or whose value does not fit its column."""
        import pyarrow as pa

        refuse_missing(
            dict.fromkeys(filter_columns(self.filters), "source.filters"), [each.name for each in self._columns]
        )
        told = [each for each in self._columns if each.arrow is not None]
        if all(name in {each.name for each in told} for name in filter_columns(self.filters)):
            filter_expression(self.filters, pa.schema([(each.name, each.arrow) for each in told]))

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Count the rows, divide them into ranges of the key, and find out the types of the columns.

        Raises:
            ConfigError: A column is not there, or has a type that cannot be read.
        """
        offered = self._offered(needed)
        fragments: list[Fragment] = []
        with self._connected() as connection:
            schema = self._schema(connection, offered)
            key, unique = self._key(connection)
            for each in inputs:
                relation = Relation.named(each.name)
                fragments += ranges(connection, relation, self._select, each, key, self.fragment_rows, unique)
        return fragments, schema

    def _offered(self, needed: Mapping[str, str] | None) -> Mapping[str, str]:
        """Return the columns that are read, each with the key that asks for it.

        Raises:
            ConfigError: One is not there.
        """
        there = [each.name for each in self._columns]
        key = {} if self.key is None else {self.key: "source.key"}
        refuse_missing({**dict.fromkeys(self.columns or (), "source.columns"), **(needed or {}), **key}, there)
        offered = dict.fromkeys(there if self.columns is None else self.columns, "source.columns")
        if hidden := [
            f"{asks}: {name!r} is not among source.columns={self.columns}"
            for name, asks in (needed or {}).items()
            if name not in offered
        ]:
            raise ConfigError(hidden)
        return offered if needed is None else needed

    def _schema(self, connection: Any, offered: Mapping[str, str]) -> pa.Schema:
        import pyarrow as pa

        read = [each for each in self._columns if each.name in offered]
        unknown = [each for each in read if each.arrow is None and self._database.dialect.name == "sqlite"]
        found = self._by_values(connection, unknown) if unknown else {}
        if problems := [self._unreadable(each) for each in read if each.arrow is None and found.get(each.name) is None]:
            raise ConfigError(problems)
        return pa.schema([(each.name, each.arrow or found[each.name]) for each in read])

    def _by_values(self, connection: Any, columns: Sequence[Column]) -> dict[str, Any]:
        values = Values(self._database.dialect)
        rows = self._select.rows(self._relation.sql(connection, self._database.dialect, values), values)
        return catalog.types_by_values(connection, self._database.dialect, rows, values, columns)

    def _unreadable(self, column: Column) -> str:
        name = self._database.dialect.quoted(column.name)
        remedy = column.remedy or f"CAST({name} AS TEXT)"
        what = f"is {column.sql}, which has no type here" if column.remedy else "holds values of several types"
        return (
            f"source: the column {column.name!r} {what}; cast it: source.query=select ..., {remedy} AS {name} ..., "
            "or leave it out with source.columns or predict.columns"
        )

    def _key(self, connection: Any) -> tuple[str | None, bool]:
        """Return the column to divide by, and whether it is known that no two rows have the same value in it."""
        dialect = self._database.dialect
        primary = catalog.primary_key(connection, dialect, self.schema, self.table) if self.table is not None else []
        key = self.key if self.key is not None else (primary[0] if len(primary) == 1 else None)
        return key, primary == [key]

    def reader(self, schema: pa.Schema) -> SqlReader:
        """Return what workers read with."""
        return SqlReader(self._database, vars(self).get("_snapshot"), self._select, schema, self._tolerant)

    def how_to_split(self, fragment: Fragment) -> str:
        """Return what a person can do so that several workers share the work of this fragment."""
        if fragment.span is None:
            what = "the query has no key" if self.table is None else "the table has no primary key of one column"
            return f"{what}; name a column to divide it by: source.key"
        if fragment.span[0] == NULLS:
            return f"{fragment.span[1]} is null in all of these rows; name another column: source.key"
        return f"give a smaller source.fragment_rows, or another source.key: rows with the same {fragment.span[1]} stay together"
