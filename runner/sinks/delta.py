"""The sink `Delta`: parts are Parquet files below the root of a Delta table, and each plan is one commit, which shows them all at once."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from runner.arrow.schemas import DoesNotFit
from runner.errors import ConfigError, SinkRefused
from runner.sinks import delta_actions
from runner.sinks.delta_table import (
    ALONE,
    BESIDE,
    MADE,
    MARK,
    has_our_columns,
    is_ours,
    last_shard,
    other_columns,
    stale_files,
    unwritable,
    with_deletes,
)
from runner.sinks.formats import Compression
from runner.sinks.parts import OUTPUT, Output, Parts, Records
from runner.storage import delta
from runner.storage.locations import absolute
from runner.storage.parallel import map_in_threads
from runner.storage.publishing import confirm
from runner.storage.transience import retrying
from runner.types import SaveMode, Shard, Sink, Written
from runner.words.plain import counted

if TYPE_CHECKING:
    import pyarrow as pa

TRIES = 8  # to commit against other writers
PAUSE_SECONDS = 0.2  # at most, after the first of them; then twice as long each time


@dataclass(frozen=True)
class Delta(Sink):
    """A table that readers see whole: a plan appears in it with one commit.

    Attributes:
        path: Root of the table, a folder or URI; `None` is the run's own output directory.
        partition_by: Columns of the output by whose values the table's files are divided.
        save_mode: `resume` finishes what is recorded; `append` also plans new input, and adds to a table of others; `overwrite` replaces
            this output in one commit; `error` refuses a sink that is not empty.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        storage_options: fsspec's options, which are translated for the table's log.
        accept: Fingerprint fields whose difference is accepted on resume.
        compression: Of the Parquet files.
    """

    path: str | None = None
    partition_by: list[str] = field(default_factory=list)
    save_mode: SaveMode = "resume"
    keep_columns: list[str] | Literal["all"] = field(default_factory=list)
    storage_options: dict[str, Any] = field(default_factory=dict)
    accept: list[str] = field(default_factory=list)
    compression: Compression = "zstd"

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without the table.

        Raises:
            ConfigError: The package is missing, or a storage option cannot be translated.
        """
        if missing := delta.missing_package():
            raise ConfigError(f"sink=delta {missing}")
        _ = self.path and self._log_options
        # How far plans are published, as far as this object has seen: asked for each plan, and it never becomes less.
        vars(self)["_seen"] = -1

    @cached_property
    def _root(self) -> str:
        if self.path is None:
            raise ConfigError("sink.path: none was given")
        return absolute(self.path)

    @cached_property
    def _log_options(self) -> dict[str, str]:
        return delta.log_options(self._root, self.storage_options, "sink.storage_options")

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self._root, self.storage_options, self.compression, tuple(self.partition_by))

    def _table(self) -> Any:
        """The table as it is now; `None` before it is created."""
        return delta.opened(self._root, self._log_options)

    # ------------------------------------------------ what it is

    @property
    def records(self) -> Records:
        """The table's root, without the data of the table."""
        return self._parts.records

    def settings(self) -> Mapping[str, Any]:
        """What changes the bytes or the names of files."""
        return {
            "format": "delta",
            "keep_columns": self.keep_columns,
            "partition_by": self.partition_by,
            "compression": self.compression,
        }

    def edition(self) -> str:
        """The table's version: files of an older output may still be read at an older version."""
        table = self._table()
        return "" if table is None else str(table.version())

    def check(self, schema: pa.Schema) -> None:
        """Refuse types that Delta does not have, and a table whose columns are others.

        Raises:
            ConfigError: Naming the columns.
        """
        stored = delta_actions.stored_schema(schema)
        if wrong := delta_actions.partition_problem(self.partition_by, stored):
            raise ConfigError(f"sink.partition_by={self.partition_by}: {wrong}")
        table = self._table()
        if table is not None and (problems := list(self._unfit(table, stored))):
            raise ConfigError([f"sink.path={self._root}: {each}" for each in problems])

    def _unfit(self, table: Any, stored: pa.Schema) -> Iterator[str]:
        """Why the table that is there cannot hold this output."""
        there = list(table.metadata().partition_columns)
        if there != self.partition_by:
            yield f"the table is partitioned by {there or 'nothing'}, and sink.partition_by={self.partition_by}; give what the table has"
        yield from unwritable(table)
        if not self._replaces(table):
            yield from other_columns(table, stored)

    def _replaces(self, table: Any) -> bool:
        """Whether all that the table holds, its columns too, will be replaced by this output."""
        if not has_our_columns(table):
            return False
        output = self._parts.output()
        begun = output is not None and not output.keeps and table.transaction_version(output.name) is None
        return (begun or self.save_mode == "overwrite") and is_ours(table)

    def prepare(self, schema: pa.Schema) -> None:
        """Create the table, without rows, and note which output is written to it."""
        from deltalake import CommitProperties, Schema
        from deltalake.transaction import create_table_with_add_actions

        vars(self)["_seen"] = -1
        self._parts.drop_temporaries()
        columns = Schema.from_arrow(delta_actions.stored_schema(schema))
        self._parts.note_output(f"{MARK}-{uuid.uuid4().hex}", self.save_mode, columns.to_json())
        if self._table() is None:
            with delta.log_errors(self._root):
                create_table_with_add_actions(
                    delta.spelled(self._root),
                    columns,
                    [],
                    mode="ignore",
                    description=MADE,
                    partition_by=self.partition_by,
                    storage_options=self._log_options or None,
                    commit_properties=CommitProperties(custom_metadata={MARK: ALONE}),
                )

    # ------------------------------------------------ parts

    def part(self, shard: Shard) -> str:
        """Path of the shard's part below the root; of a partitioned table, that of the list of its files."""
        return self._parts.part(shard)

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:
        """What is listed, and what the table's log says was published: its files may have been compacted away since."""
        there = self._parts.committed(shards, names)
        if OUTPUT not in names:
            return there
        published = self._published()
        return {each.id: there.get(each.id) for each in shards if each.id in there or each.sequence <= published}

    def _published(self) -> int:
        """The number of the last shard that a commit has shown, -1 before the first."""
        output, table = self._parts.output(), self._table()
        if output is not None and table is not None:
            vars(self)["_seen"] = last_shard(table, output)
        return int(vars(self)["_seen"])

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish the files of a part, which no reader sees before the commit of its plan."""
        stored = delta_actions.stored_schema(schema)
        return self._parts.write(shard, stored, self._without_empty_keys(tables))

    def _without_empty_keys(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """The tables. In the log of a Delta table an empty text and a null are the same.

        Raises:
            DoesNotFit: A partition column has an empty text.
        """
        import pyarrow.compute as pc

        for table in tables:
            for key in self.partition_by:
                if "string" in str(table.schema.field(key).type) and pc.any(pc.equal(table.column(key), "")).as_py():
                    raise DoesNotFit(
                        f"sink.partition_by: {key} has an empty text, which a Delta table takes for null; give it a name in the model"
                    )
            yield table

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """The files as they lie there."""
        return self._parts.examine(shard, size)

    def rewritten(self, shards: Sequence[Shard]) -> Collection[str]:
        """The published shards whose files the table does not consist of any more."""
        last = self._published()
        published = [shard for shard in shards if shard.sequence <= last]
        active = set(delta.active_files(self._table())) if published else set()
        return {
            shard.id
            for shard, there in zip(published, map_in_threads(self._paths, published), strict=True)
            if not there <= active
        }

    def _paths(self, shard: Shard) -> set[str]:
        return {file.path for file in self._parts.files(shard)}

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete what no commit has shown. What one has, the commit of the next output removes from the table, and VACUUM deletes."""
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
            if table is not None and (paths := delta.active_files(table)):
                self._refuse_others(table, set(paths), output, shards)
        return ()

    def _refuse_others(self, table: Any, active: set[str], output: Output | None, shards: Sequence[Shard]) -> None:
        ours, holds = is_ours(table), f"sink.path={self._root}: is a Delta table at version {table.version()}"
        if ours and self.save_mode == "overwrite":
            return
        if ours:
            raise SinkRefused(
                f"{holds}, with rows of an output of this program whose records are gone; sink.save_mode=overwrite replaces them, "
                "append keeps them and adds to them"
            )
        if output is None:
            raise SinkRefused(
                f"{holds}, with {counted(len(active), 'file')} that this job did not write; sink.save_mode=append adds to them, or "
                "give another sink.path (overwrite replaces only what the job itself has written)"
            )
        last = last_shard(table, output)
        gone = [shard for shard in shards if shard.sequence <= last and not self._paths(shard) <= active]
        if gone:
            raise SinkRefused(
                f"{holds} in which others have rewritten rows of this job together with their own ({counted(len(gone), 'part')}), so "
                "sink.save_mode=overwrite cannot tell which to replace; delete the rows yourself and give another sink.path, or append"
            )
        self._refuse_deleted(table)

    # ------------------------------------------------ publishing

    def publish(self, plan: int, parts: Iterable[tuple[Shard, Written]]) -> None:  # noqa: ARG002
        """Commit a plan: all of its files, and the number of its last shard as the version of an application's transaction.

        The log refuses a second commit of that transaction, also of two runs at once. So what was committed and not answered, or by a run
        that was killed, or by another run at the same moment, is found out here and taken as done.
        """
        from deltalake.exceptions import CommitFailedError

        told = list(parts)
        if not told or told[-1][0].sequence <= vars(self)["_seen"]:
            return
        output = self._parts.output()
        assert output is not None, "prepare() has noted it"
        last, adds = told[-1][0].sequence, None
        for tries in range(TRIES):
            table = self._table()
            if last_shard(table, output) >= last:
                return
            adds = adds or [action for actions in map_in_threads(self._adds, told) for action in actions]
            confirm()
            try:
                self._commit(table, output, last, adds, first=told[0][0].sequence == 0)
            except CommitFailedError:
                time.sleep(PAUSE_SECONDS * 2**tries * random.random())
                continue
            return
        raise ConnectionError(
            f"{self._root}: other writers were faster {TRIES} times; run the job again to commit its files"
        )

    def _refuse_beside_others(self, table: Any, output: Output) -> None:
        """Refuse to replace rows in a table that holds rows of others by now, where that would show wrong rows.

        Raises:
            SinkRefused: The new columns are not the table's; or rows of this job were deleted by deletion vectors.
        """
        from deltalake import Schema

        self._refuse_deleted(table)
        if wrong := list(other_columns(table, delta.arrow_schema(Schema.from_json(output.schema)))):
            raise SinkRefused(
                f"sink.path={self._root}: others have added rows since this run began, so the table keeps its columns, and "
                f"{'; '.join(wrong)}; nothing was committed: delete their rows, or give another sink.path"
            )

    def _refuse_deleted(self, table: Any) -> None:
        if deleted := with_deletes(table):
            raise SinkRefused(
                f"sink.path={self._root}: others have deleted rows of this job ({counted(len(deleted), 'file')}) by deletion vectors, and "
                "the table holds rows of their own, too, so sink.save_mode=overwrite cannot replace the rest; purge the deleted rows "
                "first (REORG TABLE ... APPLY (PURGE)), or append"
            )

    def _adds(self, part: tuple[Shard, Written]) -> list[Any]:
        shard, written = part
        with self._parts.predicted_again_if_gone(shard):
            return [
                delta_actions.add_action(
                    file.path, file.bytes or written.bytes, file.partition, self._footer(file.path)
                )
                for file in self._parts.files(shard)
            ]

    def _footer(self, path: str) -> Any:
        import pyarrow.parquet as pq

        def read() -> Any:
            with self.records.opened(path) as file:
                return pq.read_metadata(file)

        return retrying(read)

    def _commit(self, table: Any, output: Output, last: int, adds: Sequence[Any], *, first: bool) -> None:
        """One commit. The first one of an output also removes the rows that it replaces."""
        from deltalake import CommitProperties, Schema, Transaction

        replaces = first and not output.keeps
        alone = replaces and is_ours(table)
        if replaces and not alone:
            self._refuse_beside_others(table, output)
        stale = stale_files(table, adds) if replaces and not alone else []
        properties = CommitProperties(
            app_transactions=[Transaction(output.name, last)],
            custom_metadata={MARK: ALONE if alone else BESIDE},
            max_commit_retries=0,  # deltalake would commit beside rows that came meanwhile, and the mark would not be true of these
        )
        with delta.log_errors(self._root):
            table.create_write_transaction(
                [*adds, *stale],
                "overwrite" if alone else "append",
                Schema.from_json(output.schema) if alone and has_our_columns(table) else table.schema(),
                partition_by=self.partition_by,
                commit_properties=properties,
            )
