"""The sink `SqlTable`: parts are rows of a table. The rows of a part, and the mark that it is there, are one transaction."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from runner.databases import fitting, targets
from runner.databases.columns import Column
from runner.databases.database import database_at
from runner.databases.errors import DatabaseError, ValueRefused
from runner.databases.records import PARTS, Records
from runner.databases.targets import Target
from runner.databases.transactions import connected, execute, is_missing, transaction
from runner.errors import ConfigError
from runner.sinks.spool import Spool
from runner.storage.publishing import confirm, publication_asks
from runner.storage.transience import retrying
from runner.types import SaveMode, Shard, Sink, Written

if TYPE_CHECKING:
    import pyarrow as pa

How = Literal["append", "upsert"]
UNENFORCED = (
    "snowflake",
    "bigquery",
    "redshift",
    "databricks",
)  # drivers of databases whose primary keys are only informational
AT_ONCE = 500  # parts that one statement deletes
MARK = "part, row_count, byte_count, checksum, column_names"
VALUES = "{0}, {1}, {2}, {3}, {4}, {5}, {6}"


def sql_table(
    uri: str,
    table: str,
    *,
    schema: str | None = None,
    driver: str | None = None,
    options: dict[str, Any] | None = None,
    write: How = "append",
    keys: list[str] | None = None,
    part_column: str | None = "_part",
    save_mode: SaveMode = "resume",
    keep_columns: list[str] | Literal["all"] | None = None,
    accept: list[str] | None = None,
) -> SqlTable:
    """Return the sink that a config describes, without connecting.

    Args:
        uri: `postgresql://host/database`, `sqlite:///file` or `duckdb:///file`; anything with a driver.
        table: The table, which is created if it is not there.
        schema: That it lies in.
        driver: Name or path of an ADBC driver.
        options: Given to the driver.
        write: `append` adds rows; `upsert` replaces rows that have the same `keys`.
        keys: The columns that tell a row from others, for `upsert`.
        part_column: A column of ours, which tells the part of each row; `None` for no such column.
        save_mode: What to do with what is there.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        accept: Fields of the fingerprint whose difference is accepted on resume.

    Raises:
        ConfigError: The arguments do not go together.
    """
    keys = keys or []
    problems = [*_problems(driver or "", write, keys, part_column, save_mode), *targets.name_problems(table, schema)]
    if problems:
        raise ConfigError(problems)
    database = database_at("sink", uri, driver, options)
    target = Target(database, schema, table, tuple(keys) if write == "upsert" else (), part_column)
    return SqlTable(target, Records(database, schema, table), save_mode, keep_columns or [], accept or [])


def _problems(
    driver: str, write: How, keys: Sequence[str], part_column: str | None, save_mode: SaveMode
) -> Iterator[str]:
    if any(name in driver.lower() for name in UNENFORCED):
        yield (
            f"sink.driver={driver}: this database does not enforce primary keys, so nothing would keep a part from being written "
            "twice; write Parquet files instead (sink=parquet), and let the database load or read them"
        )
    if write == "upsert" and not keys:
        yield "sink.keys: is required with sink.write=upsert; give the columns that tell a row from others"
    if write == "append" and keys:
        yield "sink.keys: has no effect with sink.write=append; leave it out, or give sink.write=upsert"
    if part_column == "":
        yield "sink.part_column='': expected the name of a column, or null for none"
    if write == "append" and part_column is None and save_mode == "overwrite":
        yield (
            "sink.save_mode=overwrite: needs sink.part_column, since without it nothing tells our rows from those of others; give "
            "it, or empty the table yourself"
        )


@dataclass(frozen=True)
class SqlTable(Sink):
    """Rows of a table. A table `_runner_parts` beside it has a mark for each part, whose primary key is the target and the shard's id.

    Attributes:
        target: The table, and how rows are written to it.
        kept: The records.
        save_mode: What to do with what is there.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        accept: Fields of the fingerprint whose difference is accepted on resume.
        known: The columns of the table by their folded names, once they were asked for. They travel to the workers with the sink, which
            so need not ask again.
    """

    target: Target
    kept: Records
    save_mode: SaveMode = "resume"
    keep_columns: list[str] | Literal["all"] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)
    known: dict[str, Column] = field(default_factory=dict, init=False, compare=False, repr=False)

    @property
    def records(self) -> Records:
        """A table beside the target."""
        return self.kept

    def settings(self) -> Mapping[str, Any]:
        """What changes the rows of a part, and how they are found again."""
        keys = list(self.target.keys)
        return {"format": "sql", "write": "upsert" if keys else "append", "keys": keys, "part_column": self.target.part}

    # ------------------------------------------------ the driver

    def check(self, schema: pa.Schema) -> None:
        """Refuse a schema that the table cannot hold, be it there or still to be created.

        Raises:
            ConfigError: With all problems.
        """
        columns = retrying(self.target.columns)
        if problems := self.target.problems(schema, columns):
            raise ConfigError(problems)
        if columns is not None:
            self._try(schema.names)

    def _try(self, names: Sequence[str]) -> None:
        try:
            retrying(lambda: self.target.try_insert(names, empty=self.save_mode == "error"))
        except (DatabaseError, PermissionError, ValueRefused) as error:
            by_key = f" by sink.keys={list(self.target.keys)}, which need a unique index" if self.target.keys else ""
            raise ConfigError(
                f"sink.table={self.target.name}: no rows can be written to it{by_key}: {error}"
            ) from error

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table, unless it is there, and remember its columns."""
        self.kept.make()
        if retrying(self.target.columns) is None:
            with contextlib.suppress(DatabaseError, ValueRefused):  # another run has created it meanwhile
                retrying(lambda: self._create(schema))
        self.known.clear()
        self._columns(schema.names)

    def _create(self, schema: pa.Schema) -> None:
        """Create the table. Marks that are there are those of a table that was dropped: with it its parts are gone."""
        with transaction(self.target.database) as connection:
            self.target.create(connection, schema)
            execute(connection, self.kept.filled("DELETE FROM {parts} WHERE target = {0}", 1), (self.target.table,))

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:  # noqa: ARG002
        """The parts that have a mark; none where the table is gone."""
        marks = {} if retrying(self.target.columns) is None else self._marks()
        return {shard.id: marks[shard.id] for shard in shards if shard.id in marks}

    def _marks(self) -> dict[str, int]:
        """The size of each part that has a mark."""
        return dict(self.kept.rows("SELECT shard, byte_count FROM {parts} WHERE target = {0}", self.target.table))

    def strangers(self, shards: Sequence[Shard]) -> list[str]:
        """Parts that nobody planned, and rows of parts whose marks are gone. Rows without a part are other people's, and stay."""
        marks = self._marks()
        lost = not marks and retrying(self.target.has_parts)
        return [
            *(f"part {shard}" for shard in sorted(marks.keys() - {shard.id for shard in shards})),
            *([f"rows with a {self.target.part}, of which {PARTS} knows nothing"] if lost else []),
        ]

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete the rows and the marks. With `upsert` rows stay, since some may have been others' before; they belong to no part then."""
        numbers = [shard.sequence for shard in shards]
        for first in range(0, len(numbers), AT_ONCE):
            retrying(partial(self._remove, numbers[first : first + AT_ONCE]))

    def _remove(self, numbers: Sequence[int]) -> None:
        among = f"IN ({', '.join(map(str, numbers))})"
        with transaction(self.target.database) as connection:
            if self.target.columns() is not None:
                self.target.release(connection, among)
            statement = self.kept.filled(f"DELETE FROM {{parts}} WHERE target = {{0}} AND part {among}", 1)
            execute(connection, statement, (self.target.table,))

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:  # noqa: ARG002
        """Readers have seen each part since it was committed. What the database can do to find the rows of a part faster is done."""
        with contextlib.suppress(DatabaseError, PermissionError):  # an index that somebody else owns
            retrying(self.target.summarize)

    # ------------------------------------------------ workers

    def refused(self, table: pa.Table) -> Mapping[int, Exception]:
        """The rows with a value that their column cannot hold."""
        return fitting.refused(self.target.database.dialect, self._columns(table.column_names), table)

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Gather the rows, then commit them with the part's mark, which comes first: its primary key refuses a second writer."""
        import pyarrow as pa

        columns = self._columns(schema.names)
        with publication_asks(), Spool(pa.schema([(column.name, column.arrow) for column in columns])) as rows:
            for table in tables:
                rows.add(fitting.fitted(self.target.database.dialect, columns, table))
            written = rows.sum.written()
            try:
                self._commit(shard, rows, written)
            except (ValueRefused, ConnectionError) as error:
                first = self._of_another(shard, error)
                if first is None:
                    raise
                return first
        return written

    def _commit(self, shard: Shard, rows: Spool, written: Written) -> None:
        names = json.dumps(rows.schema.names)
        mark = (self.target.table, shard.id, shard.sequence, written.rows, written.bytes, written.checksum, names)
        with transaction(self.target.database) as connection:
            execute(
                connection,
                self.kept.filled(f"INSERT INTO {{parts}} (target, shard, {MARK}) VALUES ({VALUES})", len(mark)),
                mark,
            )
            if written.rows:
                self.target.insert(connection, shard.sequence, rows.schema, rows.batches())
            confirm()

    def _of_another(self, shard: Shard, error: Exception) -> Written | None:
        """What another writer has committed of the part, if that is why this one was refused. DuckDB calls it a conflict."""
        if isinstance(error, ConnectionError) and self.target.database.dialect.name != "duckdb":
            return None
        return self.examine(shard)

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:  # noqa: ARG002
        """Read the rows of the part, which must be those of its mark.

        The mark alone counts where there is no part column, and of a part of which later ones have replaced rows by key.

        Raises:
            ValueError: They are not.
        """
        query = f"SELECT {MARK} FROM {{parts}} WHERE target = {{0}} AND shard = {{1}}"
        for part, rows, size_, checksum, names in self.kept.rows(query, self.target.table, shard.id):
            written = Written(size_, checksum, rows)
            found = written if self.target.part is None else self._read_back(part, json.loads(names))
            replaced = found is not None and self.target.keys and (found.rows or 0) < rows
            if found is not None and found != written and not replaced:
                raise ValueError(f"{found.rows:,} rows are there, which are not the {rows:,} that were committed")
            return found and written
        return None

    def _read_back(self, part: int, names: Sequence[str]) -> Written | None:
        """The rows of a part as they are there; `None` if the table is gone."""
        try:
            return retrying(lambda: self._measured(part, self._columns(names)))
        except DatabaseError as error:
            if not is_missing(error):
                raise
            return None

    def _measured(self, part: int, columns: Sequence[Column]) -> Written:
        with connected(self.target.database) as connection:
            return self.target.measured(connection, part, columns)

    def _columns(self, names: Sequence[str]) -> list[Column]:
        """The columns of these names, as the table has them.

        Raises:
            DatabaseError: It has not.
        """
        if not self.known:
            there = retrying(self.target.columns)
            self.known.update(there or {})
        absent = [name for name in names if self.target.folded(name) not in self.known]
        if absent:
            raise DatabaseError(
                f"sink.table={self.target.name}: is gone, or has no column {', '.join(absent)} any more"
            )
        return [self.known[self.target.folded(name)] for name in names]
