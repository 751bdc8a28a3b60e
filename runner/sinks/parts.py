"""The parts of a table format: Parquet files below the table's root, which readers see only once a commit names them.

What the sinks of Delta Lake and Iceberg share. Without partitions a part is one file, as the sink `Files` writes it; with them it is
several, which `partitioned` writes.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from runner.errors import Incomplete
from runner.sinks.files import Files
from runner.sinks.formats import Compression
from runner.sinks.partitioned import DataFile, Partitioned
from runner.storage.folder import Folder
from runner.storage.publishing import OBJECT_STORES, confirm
from runner.types import SaveMode, Seal, Shard, Written

if TYPE_CHECKING:
    import pyarrow as pa

DATA = "predictions"  # the folder of our data files: others write theirs elsewhere
OURS = re.compile(rf"(?:.*/)?{DATA}/part-\d{{8}}-[0-9a-f]{{16}}(-\d{{4}})?\.parquet")
TEMPORARY = re.compile(rf"{DATA}/\.part-\d{{8}}-[0-9a-f]{{16}}(-\d{{4}})?\.parquet\.[0-9a-f]{{8}}\.tmp")
RECORDS = "_runner"
SUCCESS = "_SUCCESS"
OUTPUT = f"{RECORDS}/sink.json"


@dataclass(frozen=True)
class Records(Folder):
    """The records of runs in the root of a table. They are listed without the table's data, which may be millions of files of others."""

    def names(self, below: str = "") -> dict[str, int]:
        """List the records."""
        if below:
            return super().names(below)
        done = {SUCCESS: 0} if self.holds(Seal(SUCCESS, b"")) else {}
        return {**super().names(RECORDS), **done}


@dataclass(frozen=True)
class Output:
    """What a sink notes of the output that it writes, before the first part: it is what `publish` goes by, in whichever run.

    Attributes:
        name: Tells this output from those that it replaces. A commit to the table carries it.
        keeps: Whether rows that are in the table already stay there beside this output.
        schema: Its columns, in the words of the table format.
    """

    name: str
    keeps: bool
    schema: str = ""


@dataclass(frozen=True)
class Parts:
    """The parts below the root of one table.

    Attributes:
        root: Absolute path or URI of the table.
        options: fsspec's storage options.
        compression: Of the Parquet files.
        partition_by: Columns of which each file holds one value.
        stores_keys: Whether the files hold these columns, too, or only the commit.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict)
    compression: Compression = "zstd"
    partition_by: Sequence[str] = ()
    stores_keys: bool = False

    @property
    def records(self) -> Records:
        """Where the records of runs are kept."""
        return Records(self.root, self.options)

    @cached_property
    def _kept(self) -> Files | Partitioned:
        """What writes and reads a part."""
        if self.partition_by:
            return Partitioned(self.records, DATA, self.compression, tuple(self.partition_by), self.stores_keys)
        return Files("parquet", f"{self.root}/{DATA}", storage_options=dict(self.options), compression=self.compression)

    def part(self, shard: Shard) -> str:
        """Path of the shard's part below the root."""
        part = self._kept.part(shard)
        return part if self.partition_by else f"{DATA}/{part}"

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:
        """The parts that are listed: one listing.

        Args:
            shards: All that are planned.
            names: A listing of the records.
        """
        return self._kept.committed(
            shards, names if self.partition_by else Folder(f"{self.root}/{DATA}", self.options).names()
        )

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish a part, which appears whole or not at all."""
        return self._kept.write(shard, schema, tables)

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """What a part holds, found out by reading all of it; `None` if it is gone."""
        return self._kept.examine(shard, size)

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete the files of these parts: only of such as no commit names."""
        self._kept.remove(shards)

    def files(self, shard: Shard) -> list[DataFile]:
        """The data files of a part, their paths below the root."""
        if isinstance(self._kept, Partitioned):
            return self._kept.files(shard)
        return [DataFile(self.part(shard))]

    @contextlib.contextmanager
    def predicted_again_if_gone(self, shard: Shard) -> Iterator[None]:
        """Have a part, whose files somebody deletes before the commit that is to show them, predicted again by the next run.

        Raises:
            Incomplete: Within the block, a file of the part was missing.
        """
        try:
            yield
        except FileNotFoundError as gone:
            confirm()
            self.remove([shard])
            raise Incomplete(
                f"{self.root}: files of {shard.name}, which no commit names yet, were deleted by somebody else ({gone}); "
                "run the job again, which predicts that shard anew"
            ) from gone

    def drop_temporaries(self) -> None:
        """Delete what killed workers left half written. An object store has nothing of the kind, and is not listed."""
        if self.root.partition("://")[0] not in OBJECT_STORES:
            for name in filter(TEMPORARY.fullmatch, self.records.names(DATA)):
                self.records.delete(name)

    # ------------------------------------------------ what is noted of an output

    def output(self) -> Output | None:
        """What was noted of the output that is being written; `None` before its first part."""
        text = self.records.read(OUTPUT)
        return None if text is None else Output(**json.loads(text))

    def note_output(self, name: str, save_mode: SaveMode, schema: str = "") -> Output:
        """Note what is being written, unless an earlier run has. `append` keeps rows that were in the table before our first record."""
        given = Output(name, save_mode == "append", schema)
        self.records.create(OUTPUT, json.dumps(vars(given)).encode())
        noted = self.output()
        assert noted is not None
        return noted
