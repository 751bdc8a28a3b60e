"""`Target`: a table that parts are written to, and what may be wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from runner.arrow.checksums import RowSum
from runner.databases.columns import Column, columns_of, held_type, holds, type_name
from runner.databases.database import Database
from runner.databases.errors import ValueRefused
from runner.databases.transactions import connected, execute, is_there, joined, rows_of
from runner.types import Written
from runner.words.plain import named

if TYPE_CHECKING:
    import pyarrow as pa

STAGING = "_runner_rows"  # a temporary table of one connection
LONGEST_NAME = 63  # bytes; PostgreSQL cuts off what is longer
FOLDING = ("sqlite", "duckdb")  # to them, Score and score are the same name
# An index by which the rows of a part are found. Those of PostgreSQL lie together, so that the smallest and the largest number of each
# block range tell where they are: that costs next to nothing while rows are written, and a B-tree takes half of the speed. DuckDB knows as
# much of its blocks without an index.
INDEX = {"postgresql": "USING brin ({part}) WITH (pages_per_range = 32, autosummarize = on)", "sqlite": "({part})"}


@dataclass(frozen=True)
class Target:
    """A table.

    Attributes:
        database: Where it is.
        schema: That it lies in, `None` for the one that the database chooses.
        table: Its name.
        keys: The columns that tell a row from others: rows replace those with the same ones. Empty: rows are added.
        part: The column that holds the number of each row's part; `None` for no such column.
    """

    database: Database
    schema: str | None
    table: str
    keys: tuple[str, ...]
    part: str | None

    @property
    def name(self) -> str:
        """Its name, for people."""
        return ".".join(filter(None, (self.schema, self.table)))

    @property
    def quoted(self) -> str:
        """Its name, as SQL takes it."""
        return self.database.dialect.quoted(self.schema, self.table)

    def folded(self, name: str) -> str:
        """The name of a column, by which it is found."""
        return name.lower() if self.database.dialect.name in FOLDING else name

    def columns(self) -> dict[str, Column] | None:
        """Its columns by their folded names, `None` if there is no such table."""
        if not is_there(self.database):
            return None
        with joined(self.database) as connection:
            found = columns_of(connection, self.database.dialect, self.schema, self.table)
        return None if found is None else {self.folded(column.name): column for column in found}

    # ------------------------------------------------ what is wrong

    def problems(self, schema: pa.Schema, columns: Mapping[str, Column] | None) -> list[str]:
        """All that keeps the table from holding rows of this schema: one that is there, or one that is to be created."""
        found = [*self._name_problems(schema)]
        if columns is None:
            return [*found, *self._type_problems(schema)]
        return [*found, *self._column_problems(schema, columns), *self._part_problems(columns)]

    def _name_problems(self, schema: pa.Schema) -> Iterator[str]:
        names = [self.folded(name) for name in schema.names]
        if self.part is not None and self.folded(self.part) in names:
            yield f"sink.part_column={self.part}: is also the name of a column of the predictions; give another name"
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield f"sink.table={self.name}: to this database these columns have the same name: {', '.join(twice)}; rename a prediction"
        for key in self.keys:
            if self.folded(key) not in names:
                yield f"sink.keys: {key} is not among the columns that are written{_near(key, schema.names)}; add it to sink.keep_columns"
        if self.database.dialect.name == "postgresql":
            for name in schema.names:
                if len(name.encode()) > LONGEST_NAME:
                    yield f"sink.table={self.name}: PostgreSQL allows {LONGEST_NAME} bytes for a name, and {name} is longer"

    def _type_problems(self, schema: pa.Schema) -> Iterator[str]:
        for column in schema:
            if held_type(self.database.dialect, column.type) is None:
                yield (
                    f"sink.table={self.name}: no column of {self.database.dialect.name} holds {column.name} ({column.type}); have the "
                    "model return a text, such as JSON, or several columns"
                )

    def _column_problems(self, schema: pa.Schema, columns: Mapping[str, Column]) -> Iterator[str]:
        names = [column.name for column in columns.values()]
        for column in schema:
            there = columns.get(self.folded(column.name))
            if there is None:
                yield f"sink.table={self.name}: has no column {column.name}{_near(column.name, names)}{self._how_to_add(column)}"
            elif there.generated:
                yield f"sink.table={self.name}: its column {there.name} is computed by the database, so that nothing can be written to it"
            elif not holds(self.database.dialect, there, column.type):
                yield (
                    f"sink.table={self.name}: its column {there.name} is {there.type or 'of no type'}, which does not hold {column.type} "
                    f"without loss; {self._how_to_fit(column, there)}"
                )
        given = {*map(self.folded, schema.names), self.part and self.folded(self.part)}
        if lacking := [column.name for name, column in columns.items() if column.required and name not in given]:
            yield (
                f"sink.table={self.name}: {named(lacking)}: NOT NULL without a default, and nothing gives a value; add it to "
                "sink.keep_columns or to the predictions, or give the column a default"
            )

    def _how_to_add(self, column: pa.Field) -> str:
        held = held_type(self.database.dialect, column.type)
        if held is None:
            return ""
        declared = f"{self.database.dialect.quoted(column.name)} {type_name(self.database.dialect, held)}"
        return f"; add it: ALTER TABLE {self.quoted} ADD COLUMN {declared}"

    def _how_to_fit(self, column: pa.Field, there: Column) -> str:
        fits = (
            ""
            if there.arrow is None
            else f", or declare the prediction as predict.output_schema={{{column.name}: {there.arrow}}}"
        )
        held = held_type(self.database.dialect, column.type)
        return f"change the column{f' to {type_name(self.database.dialect, held)}' if held else ''}{fits}"

    def _part_problems(self, columns: Mapping[str, Column]) -> Iterator[str]:
        import pyarrow as pa

        if self.part is None:
            return
        there = columns.get(self.folded(self.part))
        if there is None:
            kind = type_name(self.database.dialect, pa.int64())
            yield (
                f"sink.table={self.name}: has no column {self.part}, which tells the part of a row; add it: ALTER TABLE {self.quoted} "
                f"ADD COLUMN {self.database.dialect.quoted(self.part)} {kind}; or give sink.part_column=null, without which "
                "action=verify reads no rows, and overwrite is refused"
            )
        elif there.arrow != pa.int64():
            yield f"sink.part_column={self.part}: is {there.type}, and must be a bigint; give another name"

    def try_insert(self, names: Sequence[str], *, empty: bool) -> None:
        """Insert no row: what the database refuses then (rights, a view, keys without a unique index), it would refuse in each worker.

        Args:
            names: The columns that are written.
            empty: Whether it is also asked if the table has rows.

        Raises:
            ConfigError: It has.
        """
        from runner.errors import ConfigError

        with joined(self.database) as connection:
            if empty and rows_of(connection, f"SELECT 1 FROM {self.quoted} LIMIT 1"):
                raise ConfigError(f"sink.table={self.name}: has rows, and sink.save_mode=error")
            execute(connection, self._insertion([*names, *filter(None, [self.part])], f"{self.quoted} WHERE 1 = 0"))
            connection.rollback()

    # ------------------------------------------------ what is done

    def create(self, connection: Any, schema: pa.Schema) -> None:
        """Create the table, with an index on the part column where that helps."""
        dialect = self.database.dialect
        execute(connection, f"CREATE TABLE {self.quoted} ({', '.join(self._declared(schema))})")
        if self.part is not None and (how := INDEX.get(dialect.name)):
            name, part = dialect.quoted(self._index), dialect.quoted(self.part)
            execute(connection, f"CREATE INDEX {name} ON {self.quoted} {how.format(part=part)}")

    @property
    def _index(self) -> str:
        return f"{self.table[:40]}_part"

    def _declared(self, schema: pa.Schema) -> Iterator[str]:
        import pyarrow as pa

        dialect = self.database.dialect
        for column in schema:
            held = held_type(dialect, column.type)
            assert held is not None
            key = " NOT NULL" if self.folded(column.name) in map(self.folded, self.keys) else ""
            yield f"{dialect.quoted(column.name)} {type_name(dialect, held)}{key}"
        if self.part is not None:
            yield f"{dialect.quoted(self.part)} {type_name(dialect, pa.int64())}"
        if self.keys:
            yield f"UNIQUE ({self._listed(self.keys)})"  # and no primary key, which SQLite fills in where it is null

    def insert(self, connection: Any, part: int, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Add rows as those of a part; in the transaction of the connection."""
        import pyarrow as pa

        if self.part is not None:
            batches = (_with_part(batch, self.part, part) for batch in batches)
            schema = schema.append(pa.field(self.part, pa.int64()))
        rows = pa.RecordBatchReader.from_batches(schema, batches)
        if self.database.dialect.name != "duckdb" and not self.keys:
            with connection.cursor() as cursor:
                cursor.adbc_ingest(self.table, rows, mode="append", db_schema_name=self.schema)
            return
        self._insert_staged(connection, rows)

    def _insert_staged(self, connection: Any, rows: pa.RecordBatchReader) -> None:
        """By way of a temporary table: the only one that can replace rows by key, and that leaves DuckDB's other columns alone."""
        staged = self.database.dialect.quoted(STAGING)
        with connection.cursor() as cursor:
            cursor.adbc_ingest(STAGING, rows, mode="create", temporary=True)
        if self.keys:
            self._refuse_twins(connection, staged)
        execute(
            connection, self._insertion(rows.schema.names, f"{staged} WHERE 1 = 1")
        )  # SQLite needs a WHERE before ON CONFLICT
        execute(connection, f"DROP TABLE {staged}")

    def _refuse_twins(self, connection: Any, staged: str) -> None:
        """Of two rows with the same keys one would replace the other, and which one depended on their order.

        Raises:
            ValueRefused: There are some.
        """
        keys = self._listed(self.keys)
        there = " AND ".join(f"{self._listed([key])} IS NOT NULL" for key in self.keys)
        query = f"SELECT {keys} FROM {staged} WHERE {there} GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"
        if twins := rows_of(connection, query):
            raise ValueRefused(
                f"sink.keys={list(self.keys)}: several rows of one part have the key {', '.join(map(str, twins[0]))}"
            )

    def _insertion(self, names: Sequence[str], where: str) -> str:
        columns, keys = self._listed(names), set(map(self.folded, self.keys))
        statement = f"INSERT INTO {self.quoted} ({columns}) SELECT {columns} FROM {where}"
        if not keys:
            return statement
        others = [self._listed([name]) for name in names if self.folded(name) not in keys]
        change = ", ".join(f"{name} = excluded.{name}" for name in others)
        return (
            f"{statement} ON CONFLICT ({self._listed(self.keys)}) DO {f'UPDATE SET {change}' if change else 'NOTHING'}"
        )

    def _listed(self, names: Iterable[str]) -> str:
        return ", ".join(map(self.database.dialect.quoted, names))

    def release(self, connection: Any, among: str) -> None:
        """Delete the rows of some parts. With keys they may have been others' before: they stay, and belong to no part any more."""
        if self.part is None:
            return
        part = self.database.dialect.quoted(self.part)
        change = f"UPDATE {self.quoted} SET {part} = NULL" if self.keys else f"DELETE FROM {self.quoted}"
        execute(connection, f"{change} WHERE {part} {among}")

    def summarize(self) -> None:
        """Bring PostgreSQL's index up to date, which it does not do by itself for the block ranges that were added last."""
        if self.part is None or self.database.dialect.name != "postgresql":
            return
        query = (
            "SELECT brin_summarize_new_values(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "JOIN pg_am ON pg_am.oid = relam WHERE indrelid = to_regclass($1) AND relname = $2 AND amname = 'brin'"
        )
        with connected(self.database) as connection:
            rows_of(connection, query, (self.quoted, self._index))
            connection.commit()

    # ------------------------------------------------ what is there

    def has_parts(self) -> bool:
        """Whether a row says that it belongs to a part."""
        columns = self.columns()
        if self.part is None or columns is None or self.folded(self.part) not in columns:
            return False
        query = f"SELECT 1 FROM {self.quoted} WHERE {self.database.dialect.quoted(self.part)} IS NOT NULL LIMIT 1"
        with joined(self.database) as connection:
            return bool(rows_of(connection, query))

    def measured(self, connection: Any, part: int, columns: Sequence[Column]) -> Written:
        """The rows of a part in these columns, and their checksum. They are streamed."""
        assert self.part is not None
        names = self._listed(column.name for column in columns)
        query = f"SELECT {names} FROM {self.quoted} WHERE {self.database.dialect.quoted(self.part)} = {int(part)}"
        total, skip = RowSum(), 0
        if self.database.dialect.name == "sqlite":
            query, skip = f"SELECT {', '.join(map(_example, columns))} UNION ALL {query}", 1
        with connection.cursor() as cursor:
            cursor.execute(query)
            for batch in cursor.fetch_record_batch():
                total.add(_typed(batch.slice(skip), columns))
                skip = 0
        return total.written()


def _with_part(batch: pa.RecordBatch, name: str, part: int) -> pa.RecordBatch:
    import numpy as np
    import pyarrow as pa

    return batch.append_column(name, pa.array(np.full(batch.num_rows, part, np.int64)))


def _example(column: Column) -> str:
    """A value of the column's type. SQLite's driver takes the type of a column from the first rows, in which all may be null."""
    return {"int64": "0", "double": "0.5", "binary": "x'00'"}.get(str(column.arrow), "''")


def _typed(batch: pa.RecordBatch, columns: Sequence[Column]) -> pa.Table:
    """Rows as they were returned, in the types of the columns: PostgreSQL returns exact numbers as texts."""
    import pyarrow as pa

    arrays = []
    for column, array in zip(columns, batch.columns, strict=True):
        plain = array.cast(array.type.storage_type) if isinstance(array.type, pa.BaseExtensionType) else array
        arrays.append(plain if plain.type == column.arrow else plain.cast(column.arrow))
    return pa.table(arrays, names=[column.name for column in columns])


def name_problems(table: str, schema: str | None) -> Iterator[str]:
    """What is wrong with the names of a table and its schema."""
    for key, name in (("table", table), ("schema", schema)):
        if name is not None and not name.strip():
            yield f"sink.{key}='': expected a name; is a variable unset?"
        elif name is not None and len(name.encode()) > LONGEST_NAME:
            yield f"sink.{key}={name}: expected at most {LONGEST_NAME} bytes, of which databases make use"


def _near(name: str, names: Sequence[str]) -> str:
    close = get_close_matches(name, names, 1, 0.6)
    return f" (did you mean {close[0]}?)" if close else f" (there are: {', '.join(names)})"
