"""Predictions as rows of an SQLite file: the rows of a part, and the mark that it is there, are one transaction."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from runner import ConfigError
from runner.storage.folder import Folder
from runner.storage.publishing import confirm
from runner.types import SaveMode, Shard, Sink, Written

FILE = "_predictions.db"  # among the records, where a name that begins with _ is nobody else's
TYPES = {
    **dict.fromkeys([pa.int8(), pa.int16(), pa.int32(), pa.int64()], "INTEGER"),
    **dict.fromkeys([pa.float32(), pa.float64()], "REAL"),
    pa.string(): "TEXT",
    pa.binary(): "BLOB",
}
PATIENCE_SECONDS = 60.0  # in which other writers must be done


@dataclass(frozen=True)
class SqliteTable(Sink):
    """The table `predictions` of a database, in which `_part` tells the part of each row. SQLite stores a NaN as null.

    Attributes:
        path: A folder for the database and the records.
        save_mode: What to do with what is there.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        accept: Fields of the fingerprint whose difference is accepted on resume.
    """

    path: str
    save_mode: SaveMode = "resume"
    keep_columns: list[str] | Literal["all"] = field(default_factory=list)
    accept: list[str] = field(default_factory=list)

    @property
    def records(self) -> Folder:
        """The folder, beside the database."""
        return Folder(self.path)

    def settings(self) -> Mapping[str, Any]:
        """There is one way to write it."""
        return {"format": "sqlite"}

    def check(self, schema: pa.Schema) -> None:
        """Refuse what no column of SQLite holds."""
        if wrong := [f"{column.name} ({column.type})" for column in schema if column.type not in TYPES]:
            raise ConfigError(f"sink: an SQLite table cannot hold {', '.join(wrong)}")
        if "_part" in schema.names:
            raise ConfigError("sink: there is a column _part, which is the name of this sink's own")

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table; one that has no part yet may be of an older output, with other columns."""
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM parts").fetchone() is None:
                db.execute("DROP TABLE IF EXISTS predictions")
            db.execute(f"CREATE TABLE IF NOT EXISTS predictions ({_columns(schema)})")
            db.execute("CREATE INDEX IF NOT EXISTS by_part ON predictions (_part)")

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> Mapping[str, int | None]:
        """The parts that have a mark."""
        marks = self._marks()
        return {shard.id: marks[shard.id].bytes for shard in shards if shard.id in marks}

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Gather the rows in a table that only this connection sees, then commit them at once, which keeps others waiting only briefly."""
        with self._open() as db:
            db.execute(f"CREATE TEMP TABLE gathered ({_columns(schema)})")
            insert = f"INSERT INTO gathered VALUES ({', '.join('?' * (1 + len(schema)))})"
            for table in tables:
                columns = (column.to_pylist() for column in table.columns)
                db.executemany(insert, zip([shard.id] * table.num_rows, *columns, strict=True))
            written = _measured(db.execute("SELECT * FROM gathered ORDER BY rowid"))
            try:
                with _committing(db):
                    db.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", (shard.id, *written))
                    db.execute("DELETE FROM predictions WHERE _part = ?", (shard.id,))
                    db.execute("INSERT INTO predictions SELECT * FROM gathered ORDER BY rowid")
                    confirm()
            except sqlite3.IntegrityError:  # by the key of `parts`: another worker was first, and its part is as good
                first = self.examine(shard)
                if first is None:
                    raise
                return first
        return written

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """Read the rows, which must be those of the mark."""
        mark = self._marks("WHERE shard = ?", shard.id).get(shard.id)
        if mark is None:
            return None
        with self._open() as db:
            found = _measured(db.execute("SELECT * FROM predictions WHERE _part = ? ORDER BY rowid", (shard.id,)))
        if found != mark:
            raise ValueError(f"{found.rows:,} rows are there, which are not the {mark.rows:,} that were committed")
        return found

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete rows and marks."""
        ids = [(shard.id,) for shard in shards]
        if ids:
            with self._transaction() as db:
                db.executemany("DELETE FROM predictions WHERE _part = ?", ids)
                db.executemany("DELETE FROM parts WHERE shard = ?", ids)

    def strangers(self, shards: Sequence[Shard]) -> Iterable[str]:
        """Parts that nobody planned."""
        return [f"{FILE}: part {name}" for name in self._marks().keys() - {shard.id for shard in shards}]

    # ------------------------------------------------ the database

    def _marks(self, which: str = "", *values: str) -> dict[str, Written]:
        """By the shard's id; nothing is created to find out."""
        if not Path(self.path, FILE).exists():
            return {}
        with self._open() as db:
            found = db.execute(f"SELECT shard, bytes, checksum, rows FROM parts {which}", values)
            return {shard: Written(*mark) for shard, *mark in found}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own; trouble with the file is told as such."""
        file = Path(self.path, FILE)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(file, PATIENCE_SECONDS, isolation_level=None)) as db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS parts (shard TEXT PRIMARY KEY, bytes INTEGER, checksum TEXT, rows INTEGER)"
                )
                yield db
        except sqlite3.OperationalError as error:
            raise OSError(f"{file}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db, _committing(db):
            yield db


@contextmanager
def _committing(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block, or nothing of it."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield


def _columns(schema: pa.Schema) -> str:
    return ", ".join(["_part TEXT", *(f"{_quoted(column.name)} {TYPES[column.type]}" for column in schema)])


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _measured(rows: Iterable[tuple[Any, ...]]) -> Written:
    """What tells these rows from any others, found out row by row."""
    total, size, count = hashlib.sha256(), 0, 0
    for row in rows:
        text = repr(row).encode()
        total.update(text)
        size, count = size + len(text), count + 1
    return Written(size, f"sha256:{total.hexdigest()}", count)
