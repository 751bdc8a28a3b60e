"""`Records`: the records of a sink as rows of a table beside the target, so that whoever can reach the database can resume."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar

from runner.databases.database import Database
from runner.databases.errors import DatabaseError, ValueRefused
from runner.databases.transactions import execute, is_missing, is_taken, is_there, joined, rows_of, transaction
from runner.storage.publishing import confirm, publication_asks
from runner.storage.transience import retrying
from runner.types import Seal, Store, Written

RECORDS, PARTS = "_runner_records", "_runner_parts"
BYTES = {"postgresql": "bytea", "sqlite": "BLOB", "duckdb": "BLOB"}
LENGTH = {"sqlite": "length"}  # in others octet_length


class _Gathered(io.BytesIO):
    """A file in memory that can say what was written to it."""

    def written(self) -> Written:
        content = self.getvalue()
        return Written(len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


@dataclass(frozen=True)
class Records(Store):
    """Names with content, in the table `_runner_records`, which all targets of a schema share.

    Attributes:
        database: Where the table is.
        schema: That it lies in, `None` for the one that the database chooses.
        target: The table that the parts are written to.
    """

    database: Database
    schema: str | None
    target: str
    key: ClassVar[str] = "sink.table"
    _made: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def root(self) -> str:
        """The target: its database and its name."""
        return f"{self.database.place}#{'.'.join(filter(None, (self.schema, self.target)))}"

    def path(self, name: str = "") -> str:
        """The target, and a name among its records."""
        return f"{self.root}/{name}" if name else self.root

    # ------------------------------------------------ the store

    def names(self, below: str = "") -> dict[str, int]:
        """Every name, with the size of its content."""
        size = LENGTH.get(self.database.dialect.name, "octet_length")
        begins = f"{below.rstrip('/')}/" if below else ""
        found = self.rows(f"SELECT name, {size}(content) FROM {{records}} WHERE target = {{0}}", self.target)
        return {name: count for name, count in found if name.startswith(begins)}

    def read(self, name: str) -> bytes | None:
        """The content, `None` if there is no such name."""
        return self._content(name)

    def _content(self, name: str, lock: str = "") -> bytes | None:
        query = f"SELECT content FROM {{records}} WHERE target = {{0}} AND name = {{1}}{lock}"
        found = self.rows(query, self.target, name)
        return bytes(found[0][0]) if found else None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """The content as a file."""
        content = self.read(name)
        if content is None:
            raise FileNotFoundError(self.path(name))
        yield io.BytesIO(content)

    def holds(self, seal: Seal) -> bool:
        """Whether the seal is there. Where a transaction is open, nobody can break it before that ends: the row is locked."""
        content = self._content(seal.name, " FOR SHARE" if self.database.dialect.name == "postgresql" else "")
        return content is not None and content.startswith(seal.begins)

    def delete(self, name: str) -> None:
        """Delete a name; none is fine."""
        retrying(lambda: self._write("DELETE FROM {records} WHERE target = {0} AND name = {1}", self.target, name))

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[_Gathered]:
        """A file in memory, whose content appears at the end of the block."""
        with publication_asks():
            yield (file := _Gathered())
            self._replace(name, file.getvalue())

    def replace(self, name: str, data: bytes) -> None:
        """Put the content in the place of what was there."""
        with publication_asks():
            retrying(lambda: self._replace(name, data))

    def _replace(self, name: str, data: bytes) -> None:
        statement = (
            "INSERT INTO {records} (target, name, content) VALUES ({0}, {1}, {2}) "
            "ON CONFLICT (target, name) DO UPDATE SET content = excluded.content"
        )
        self._write(statement, self.target, name, data)

    def create(self, name: str, data: bytes) -> bool:
        """Add the name, unless it is there: its primary key decides."""
        statement = "INSERT INTO {records} (target, name, content) VALUES ({0}, {1}, {2})"
        try:
            retrying(lambda: self._write(statement, self.target, name, data))
        except (ValueRefused, ConnectionError) as error:
            if not is_taken(error) and self.read(name) is None:
                raise
            return False
        return True

    # ------------------------------------------------ the tables

    def rows(self, query: str, *values: Any) -> list[Any]:
        """What a query of our tables gives; nothing where they were not created yet."""
        return retrying(lambda: self._rows(query, values)) if is_there(self.database) else []

    def _rows(self, query: str, values: Sequence[Any]) -> list[Any]:
        try:
            with joined(self.database) as connection:
                return rows_of(connection, self.filled(query, len(values)), values)
        except DatabaseError as error:
            if not is_missing(error):
                raise
            return []

    def _write(self, statement: str, *values: Any) -> None:
        self.make()
        with transaction(self.database) as connection:
            execute(connection, self.filled(statement, len(values)), values)
            confirm()

    def filled(self, statement: str, count: int) -> str:
        """A statement with the names of our tables, and with placeholders for so many values."""
        quoted = self.database.dialect.quoted
        tables = {"records": quoted(self.schema, RECORDS), "parts": quoted(self.schema, PARTS)}
        return statement.format(*self.database.dialect.placeholders(count), **tables)

    def make(self) -> None:
        """Create our tables, if that was not done. Of several who do it at once, one may be refused: then it is done."""
        if not self._made:
            try:
                self._make()
            except (DatabaseError, ValueRefused, ConnectionError):
                retrying(self._make)
            self._made.append(True)

    def _make(self) -> None:
        content = BYTES.get(self.database.dialect.name, "VARBINARY")
        with transaction(self.database) as connection:
            execute(connection, self.filled(
                "CREATE TABLE IF NOT EXISTS {records} (target varchar(255) NOT NULL, name varchar(1024) NOT NULL, "
                f"content {content} NOT NULL, PRIMARY KEY (target, name))", 0,
            ))  # fmt: skip
            execute(connection, self.filled(
                "CREATE TABLE IF NOT EXISTS {parts} (target varchar(255) NOT NULL, shard varchar(16) NOT NULL, part bigint NOT NULL, "
                "row_count bigint NOT NULL, byte_count bigint NOT NULL, checksum varchar(64) NOT NULL, column_names text NOT NULL, "
                "PRIMARY KEY (target, shard))", 0,
            ))  # fmt: skip
