"""Further sinks: one with a commit of its own at the end, and some that were written carelessly."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from foreign.sqlite_sink import SqliteTable
from runner.storage.folder import Folder
from runner.types import Shard, Sink, Written


@dataclass(frozen=True)
class Publishing(SqliteTable):
    """Notes what it is told to publish, if nothing stands in the way."""

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:
        place = Path(self.path)
        assert (place / "_runner/manifest.json").exists()
        assert not (place / "_SUCCESS").exists()
        if (place / "_closed").exists():
            raise ConnectionError("the catalog does not answer")
        with (place / "_published").open("a") as file:
            file.write(json.dumps([plan, [written.rows for _, written in parts]]) + "\n")


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
