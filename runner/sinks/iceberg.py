"""The sink `Iceberg`: parts are Parquet files, and each plan is one commit to a table, which shows them all at once."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from runner.errors import ConfigError, SinkRefused
from runner.sinks.formats import Compression
from runner.sinks.iceberg_table import (
    ALONE,
    LAST_SHARD,
    OUTPUT,
    PLAN,
    is_ours,
    is_part,
    kept_schema,
    last_shard,
    live_files,
    unfit,
)
from runner.sinks.parts import OUTPUT as NOTE
from runner.sinks.parts import Output, Parts, Records
from runner.storage import iceberg
from runner.storage.locations import absolute
from runner.storage.parallel import map_in_threads
from runner.storage.publishing import confirm
from runner.storage.transience import retrying
from runner.types import SaveMode, Shard, Sink, Written
from runner.words.plain import counted

if TYPE_CHECKING:
    import pyarrow as pa

TRIES = 8  # to commit against other writers
RETRIES = "commit.retry.num-retries"
VERSION = re.compile(r"(?:.*/)?v?(\d+)[-.][^/]*")  # of the metadata file that a table has now


@dataclass(frozen=True)
class Iceberg(Sink):
    """A table that readers see whole: a plan appears in it with one snapshot.

    Attributes:
        catalog: pyiceberg's properties, such as `type`, `uri` and `warehouse`, and `name`.
        table: The table, with its namespace. Both are created if they are not there.
        path: Where parts and records are kept, a folder or URI; `None` is the table's own location.
        partition_by: Columns of the output by whose values the table's files are divided.
        save_mode: `resume` finishes what is recorded; `append` also plans new input, and adds to a table of others; `overwrite` replaces
            this output in one commit; `error` refuses a sink that is not empty.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        storage_options: fsspec's options, for the path.
        accept: Fingerprint fields whose difference is accepted on resume.
        compression: Of the Parquet files.
    """

    own_place: ClassVar[bool] = True

    catalog: dict[str, Any]
    table: str
    path: str | None = None
    partition_by: list[str] = field(default_factory=list)
    save_mode: SaveMode = "resume"
    keep_columns: list[str] | Literal["all"] = field(default_factory=list)
    storage_options: dict[str, Any] = field(default_factory=dict)
    accept: list[str] = field(default_factory=list)
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong before the catalog is asked."""
        if found := iceberg.problems("sink", self.table):
            raise ConfigError(found)
        # How far plans are published, as far as this object has seen: asked for each plan, and it never becomes less.
        vars(self)["_seen"] = -1

    @cached_property
    def _root(self) -> str:
        if self.path is not None:
            return absolute(self.path)
        with iceberg.opened_catalog("sink", self.catalog, must_exist=False) as catalog:
            table = self._opened(catalog)
            return absolute(iceberg.own_location(catalog, self.table) if table is None else table.location()).rstrip(
                "/"
            )

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self._root, self.storage_options, self.compression, tuple(self.partition_by), stores_keys=True)

    def _opened(self, catalog: Any) -> Any:
        """The table as it is now; `None` before it is created."""
        return iceberg.load_table(catalog, "sink", self.table) if iceberg.has_table(catalog, self.table) else None

    def _table(self) -> Any:
        with iceberg.opened_catalog("sink", self.catalog, must_exist=False) as catalog:
            return self._opened(catalog)

    # ------------------------------------------------ what it is

    @property
    def records(self) -> Records:
        """The folder of the parts, without the data in it."""
        return self._parts.records

    def settings(self) -> Mapping[str, Any]:
        """What changes the bytes or the names of files."""
        return {
            "format": "iceberg",
            "keep_columns": self.keep_columns,
            "partition_by": self.partition_by,
            "compression": self.compression,
        }

    def edition(self) -> str:
        """The number of the table's metadata: files of an older output may still be read in an older snapshot."""
        table = self._table()
        if table is None:
            return ""
        found = VERSION.fullmatch(table.metadata_location)
        return found[1] if found else str(table.metadata_location)

    def check(self, schema: pa.Schema) -> None:
        """Refuse types that Iceberg does not have, and a table that cannot hold the output.

        Raises:
            ConfigError: Naming the columns.
        """
        kept, wrong = kept_schema(schema)
        if wrong:
            raise ConfigError(
                f"sink=iceberg: an Iceberg table cannot hold {', '.join(wrong)}; cast it in the model, leave it out of "
                "sink.keep_columns, or take sink=parquet"
            )
        if absent := [key for key in self.partition_by if key not in kept.names]:
            raise ConfigError(
                f"sink.partition_by={self.partition_by}: there is no column {absent[0]!r} in the output, which has "
                f"{', '.join(kept.names)}; sink.keep_columns keeps one of the input"
            )
        table = self._table()
        if table is not None:
            replaces = self.save_mode == "overwrite" and is_ours(table, self._root)
            new = kept.names if replaces else ()
            if problems := list(unfit(table, kept, self.partition_by, new)):
                raise ConfigError([f"sink.table={self.table}: {each}" for each in problems])

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table, without rows, and note which output is written to it, with the ids of its columns."""
        vars(self)["_seen"] = -1
        self._parts.drop_temporaries()
        kept, _ = kept_schema(schema)
        with iceberg.opened_catalog("sink", self.catalog, must_exist=False) as catalog:
            place = self._root if self.path is None else None
            table = self._opened(catalog) or iceberg.create_table(catalog, self.table, kept, self.partition_by, place)
            iceberg.add_columns(table, kept)
            columns = table.schema().select(*kept.names).model_dump_json()
        vars(self)["_columns"] = self._parts.note_output(uuid.uuid4().hex, self.save_mode, columns).schema

    # ------------------------------------------------ parts

    def part(self, shard: Shard) -> str:
        """Path of the shard's part below the folder; of a partitioned table, that of the list of its files."""
        return self._parts.part(shard)

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:
        """What is listed, and what the table says was published: its files may have been compacted away since."""
        there = self._parts.committed(shards, names)
        if NOTE not in names:
            return there
        published = self._published()
        return {each.id: there.get(each.id) for each in shards if each.id in there or each.sequence <= published}

    def _published(self) -> int:
        """The number of the last shard that a commit has shown, -1 before the first."""
        output, table = self._parts.output(), self._table()
        if output is not None and table is not None:
            vars(self)["_seen"] = last_shard(table, output.name)
        return int(vars(self)["_seen"])

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish the files of a part, which no reader sees before the commit of its plan."""
        return self._parts.write(shard, self._stored(schema), tables)

    def _stored(self, schema: pa.Schema) -> pa.Schema:
        """The columns as files hold them: in the table's types, each with its field id."""
        import pyarrow as pa
        from pyiceberg.schema import Schema

        if "_columns" not in vars(self):  # of a sink that was made anew, and not by the run that prepared it
            output = self._parts.output()
            assert output is not None, "prepare() has noted it"
            vars(self)["_columns"] = output.schema
        there = iceberg.arrow_schema(Schema.model_validate_json(vars(self)["_columns"]), ids=True)
        return pa.schema([there.field(name) for name in schema.names])

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """The files as they lie there."""
        return self._parts.examine(shard, size)

    def rewritten(self, shards: Sequence[Shard]) -> Collection[str]:
        """The published shards whose files the table does not consist of any more."""
        last = self._published()
        published = [shard for shard in shards if shard.sequence <= last]
        live = live_files(self._table()) if published else {}
        found = zip(published, map_in_threads(self._paths, published), strict=True)
        return {shard.id for shard, paths in found if not paths <= live.keys()}

    def _paths(self, shard: Shard) -> set[str]:
        return {self.records.path(file.path) for file in self._parts.files(shard)}

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete what no commit has shown. What one has, the commit of the next output removes, and expiring snapshots deletes."""
        if self._parts.output() is None:  # then nothing tells which these are
            return
        last = self._published()
        self._parts.remove([shard for shard in shards if shard.sequence > last])
        vars(self)["_seen"] = -1

    def strangers(self, shards: Sequence[Shard]) -> Iterable[str]:
        """Nothing: rows of others may be in a table. Where this job would have to tell them from its own and cannot, it is refused.

        Raises:
            SinkRefused: It cannot.
        """
        output = None if self.save_mode == "append" else self._parts.output()
        if self.save_mode != "append" and (output is None or self.save_mode == "overwrite"):
            table = self._table()
            if table is not None and (live := live_files(table)):
                self._refuse_others(table, live, output, shards)
        return ()

    def _refuse_others(self, table: Any, live: Collection[str], output: Output | None, shards: Sequence[Shard]) -> None:
        ours, holds = is_ours(table, self._root), f"sink.table={self.table}: is a table"
        if ours and self.save_mode == "overwrite":
            return
        if ours:
            raise SinkRefused(
                f"{holds} with rows of an output of this program whose records are gone; sink.save_mode=overwrite replaces them, "
                "append keeps them and adds to them"
            )
        if output is None:
            raise SinkRefused(
                f"{holds} with {counted(len(live), 'file')} that this job did not write; sink.save_mode=append adds to them, or "
                "give another sink.table (overwrite replaces only what the job itself has written)"
            )
        last = last_shard(table, output.name)
        gone = [shard for shard in shards if shard.sequence <= last and not self._paths(shard) <= set(live)]
        if gone:
            raise SinkRefused(
                f"{holds} in which others have rewritten rows of this job together with their own ({counted(len(gone), 'part')}), so "
                "sink.save_mode=overwrite cannot tell which to replace; delete the rows yourself and give another sink.path, or append"
            )

    # ------------------------------------------------ publishing

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:
        """Commit a plan: all of its files, and the number of its last shard as a property of the table.

        A commit is refused if the table is another one by then, and the property tells what was committed already: by a commit that was not
        answered, by a run that was killed, or by another run at the same moment.
        """
        from pyiceberg.exceptions import CommitFailedException

        told = list(parts)
        if not told or told[-1][0].sequence <= vars(self)["_seen"]:
            return
        output = self._parts.output()
        assert output is not None, "prepare() has noted it"
        for _ in range(TRIES):
            with iceberg.opened_catalog("sink", self.catalog, must_exist=False) as catalog:
                table = iceberg.load_table(catalog, "sink", self.table)
                if last_shard(table, output.name) >= told[-1][0].sequence:
                    return
                try:
                    self._commit(table, output, plan, told)
                except CommitFailedException:
                    continue
                return
        raise ConnectionError(
            f"sink.table={self.table}: other writers were faster {TRIES} times; run the job again to commit its files"
        )

    def _commit(self, table: Any, output: Output, plan: int, told: Sequence[tuple[Shard, Written]]) -> None:
        """One commit. The first one of an output also removes the rows that it replaces."""
        added = [file for files in map_in_threads(lambda part: self._files(table, part[0]), told) for file in files]
        replaces = told[0][0].sequence == 0 and not output.keeps
        ours = is_ours(table, self._root)
        live = live_files(table) if replaces else {}
        stale = [file for path, file in live.items() if ours or is_part(path, self._root)]
        older = [name for name in table.properties if replaces and ours and name.startswith(LAST_SHARD)]
        noted = {LAST_SHARD + output.name: str(told[-1][0].sequence)}
        if ours and table.metadata.format_version > 1:
            changes = table.metadata.next_sequence_number() if added or stale else table.metadata.last_sequence_number
            noted[ALONE] = f"{changes} {self._root}"  # without a snapshot, the next number may be that of others
        # pyiceberg would commit again by itself after another writer was faster. That may have been a run that published this very plan.
        table.metadata.properties[RETRIES] = "0"
        confirm()
        with table.transaction() as transaction:
            if older:
                transaction.remove_properties(*older)
            transaction.set_properties(noted)
            if added or stale:
                update = transaction.update_snapshot(snapshot_properties={OUTPUT: output.name, PLAN: str(plan)})
                with update.overwrite() if stale else update.fast_append() as snapshot:
                    for file in stale:
                        snapshot.delete_data_file(file)
                    for file in added:
                        snapshot.append_data_file(file)

    def _files(self, table: Any, shard: Shard) -> list[Any]:
        """The files of a part as the table has them: with the statistics that their footers tell."""
        from pyiceberg.io.pyarrow import parquet_file_to_data_file

        # pyiceberg takes the values of partition columns from their statistics, whichever metrics the table wants of these columns.
        known = {f"write.metadata.metrics.column.{key}": "full" for key in self.partition_by}
        metadata = table.metadata.model_copy(update={"properties": {**table.properties, **known}})

        def described(path: str) -> Any:
            return retrying(lambda: parquet_file_to_data_file(table.io, metadata, path))

        with self._parts.predicted_again_if_gone(shard):
            return list(map(described, sorted(self._paths(shard))))
