"""Sinks that somebody wrote carelessly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from foreign.sqlite_sink import SqliteTable
from runner.storage.folder import Folder
from runner.types import Shard, Sink, Written


class Partial(Sink):
    """Lacks most of it."""

    @property
    def records(self) -> Folder:
        return Folder("out")

    def settings(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class Losing(SqliteTable):
    """Writes one row less than it is given."""

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        whole = pa.concat_tables(tables)
        return super().write(shard, schema, iter([whole.slice(1)]))


@dataclass(frozen=True)
class Wrapping(SqliteTable):
    """Takes every error for one of its own."""

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        try:
            return super().write(shard, schema, tables)
        except Exception as error:
            raise ConnectionError("the database is to blame") from error
