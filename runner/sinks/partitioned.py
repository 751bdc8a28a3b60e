"""Parts that are several Parquet files, one for each value of the partition columns.

A part appears in one step all the same: what its planned name holds is a list of its files, which is published last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.arrow.batches import rebatch
from runner.arrow.predictions import decode_run_ends
from runner.arrow.schemas import DoesNotFit
from runner.sinks.formats import Compression, Parquet, group_rows, grouped, stored_schema
from runner.storage.folder import Folder
from runner.storage.parallel import map_in_threads
from runner.storage.transience import is_of_storage, retrying
from runner.types import Shard, Written

if TYPE_CHECKING:
    import pyarrow as pa

LISTS = "_runner/parts"  # hidden from VACUUM, which would delete what no commit names
MOST_FILES = 500  # of one part: each is open, and has rows in memory, while the part is written


class DataFile(NamedTuple):
    """A file with rows of a part.

    Attributes:
        path: Below the table's root.
        partition: The partition columns with this file's values, as text; `None` is null.
        bytes: Size, where it is known.
        rows: Likewise.
        checksum: Likewise.
    """

    path: str
    partition: Mapping[str, str | None] = {}
    bytes: int | None = None
    rows: int | None = None
    checksum: str = ""


@dataclass(frozen=True)
class Partitioned:
    """Writes and reads such parts.

    Attributes:
        folder: Of the table.
        data: Folder below it for the files.
        compression: Of the files.
        keys: The partition columns.
        stores_keys: Whether the files hold these columns, too.
    """

    folder: Folder
    data: str
    compression: Compression
    keys: tuple[str, ...]
    stores_keys: bool

    def part(self, shard: Shard) -> str:
        """Path of the list of the part's files."""
        return f"{LISTS}/{shard.name}.json"

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:
        """The parts whose list is there. The size of the files is not known from it."""
        return {shard.id: None for shard in shards if self.part(shard) in names}

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish the files, then their list."""
        with contextlib.ExitStack() as stack:
            found = _Files(self, shard, stored_schema(schema), stack)
            for table in tables:
                found.add(table)
            found.finish()
        text = _list_of(found.files())
        with self.folder.publish(self.part(shard)) as file:
            file.write(text)
        return _written(text, found.files())

    def files(self, shard: Shard) -> list[DataFile]:
        """The files of a part.

        Raises:
            FileNotFoundError: The part is not there.
        """
        text = self.folder.read(self.part(shard))
        if text is None:
            raise FileNotFoundError(self.folder.path(self.part(shard)))
        return [DataFile(**each) for each in json.loads(text)["files"]]

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:  # noqa: ARG002
        """Read all files of a part.

        Raises:
            ValueError: A file is damaged.
        """
        try:
            files = self.files(shard)
            for _ in map_in_threads(self._refuse_damaged, files, 2):
                pass
        except FileNotFoundError:
            return None
        return _written(_list_of(files), files)

    def _refuse_damaged(self, file: DataFile) -> None:
        """Raise a `ValueError` for a file that is not what was written."""
        found = retrying(lambda: self._measured(file.path))
        if found != Written(file.bytes or 0, file.checksum, file.rows):
            raise ValueError(f"{file.path} is not what was written: {found}")

    def _measured(self, path: str) -> Written:
        import pyarrow as pa

        with self.folder.opened(path) as opened:
            file: Any = opened
            checksum, size = hashlib.file_digest(file, "sha256").hexdigest(), file.seek(0, os.SEEK_END)
            try:
                return Written(size, f"sha256:{checksum}", Parquet(self.compression).count_rows(file))
            except (pa.ArrowException, OSError) as error:
                if is_of_storage(error) and getattr(error, "errno", None) is not None:
                    raise
                raise ValueError(f"{path}: {error}") from None

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete each list, and then the files that it names."""
        for _ in map_in_threads(self._remove, shards):
            pass

    def _remove(self, shard: Shard) -> None:
        with contextlib.suppress(FileNotFoundError):
            files = self.files(shard)
            self.folder.delete(self.part(shard))
            for file in files:
                self.folder.delete(file.path)


def _list_of(files: Sequence[DataFile]) -> bytes:
    return json.dumps({"files": [each._asdict() for each in files]}).encode()


def _written(text: bytes, files: Sequence[DataFile]) -> Written:
    """The list tells the checksums of the files, so its own checksum stands for all of them."""
    size, rows = sum(each.bytes or 0 for each in files), sum(each.rows or 0 for each in files)
    return Written(size, f"sha256:{hashlib.sha256(text).hexdigest()}", rows)


# ---------------------------------------------------------------- writing


class _Files:
    """The files of one part while it is written. They are numbered in the order in which their first rows come."""

    def __init__(self, of: Partitioned, shard: Shard, schema: pa.Schema, stack: contextlib.ExitStack) -> None:
        import pyarrow as pa

        self._of, self._shard, self._stack = of, shard, stack
        kept = [column for column in schema if of.stores_keys or column.name not in of.keys]
        self._schema = pa.schema(kept)
        self._open: dict[tuple[str | None, ...], _File] = {}

    def add(self, table: pa.Table) -> None:
        for values, rows in split(decode_run_ends(table), self._of.keys):
            if values not in self._open:
                self._open[values] = self._opened(len(self._open))
            self._open[values].add(rows.select(self._schema.names).cast(self._schema))

    def _opened(self, number: int) -> _File:
        if number == MOST_FILES:
            raise DoesNotFit(
                f"sink.partition_by={list(self._of.keys)}: one shard has more than {MOST_FILES} values of it; "
                "partition by something coarser, or make the shards smaller (shard_bytes)"
            )
        path = f"{self._of.data}/{self._shard.name}-{number:04d}.parquet"
        file = _File(path, self._stack.enter_context(self._of.folder.publish(path)), self._schema, self._of.compression)
        self._stack.callback(file.close)  # also after an error: then what it has written is thrown away
        return file

    def finish(self) -> None:
        for file in self._open.values():
            file.finish()

    def files(self) -> list[DataFile]:
        return [file.described(dict(zip(self._of.keys, values, strict=True))) for values, file in self._open.items()]


class _File:
    """One file while it is written: rows wait until they fill a row group, so that how they come does not show."""

    def __init__(self, path: str, file: Any, schema: pa.Schema, compression: Compression) -> None:
        import pyarrow.parquet as pq

        self._path, self._file, self._schema, self.rows = path, file, schema, 0
        self._writer = pq.ParquetWriter(file, schema, compression=compression, store_schema=True)
        self._waiting = schema.empty_table()

    def add(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        pieces = list(rebatch([self._waiting, table], group_rows(self._schema)))
        self._waiting = pieces.pop() if pieces[-1].num_rows < group_rows(self._schema) else self._schema.empty_table()
        self._put(pieces)

    def _put(self, pieces: Sequence[pa.Table]) -> None:
        for group in grouped(self._schema, iter(pieces)):
            self._writer.write_table(group, row_group_size=group.num_rows)

    def finish(self) -> None:
        self._put([self._waiting])
        self.close()

    def close(self) -> None:
        self._writer.close()

    def described(self, partition: Mapping[str, str | None]) -> DataFile:
        size, checksum, _ = self._file.written()
        return DataFile(self._path, partition, size, self.rows, checksum)


def split(table: pa.Table, keys: Sequence[str]) -> Iterator[tuple[tuple[str | None, ...], pa.Table]]:
    """Yield the values of the keys, as text, with the rows that have them, in order. The values come in the order of their first rows."""
    import numpy as np
    import pyarrow as pa

    codes = np.zeros(table.num_rows, np.int64)
    for key in keys:
        coded = table.column(key).combine_chunks().dictionary_encode(null_encoding="encode")
        codes = codes * len(coded.dictionary) + coded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    groups = sorted(np.split(order, starts[1:]), key=lambda rows: rows[0]) if len(order) else []
    for rows in groups:
        first = table.select(list(keys)).slice(int(rows[0]), 1)
        values = tuple(column.cast(pa.string())[0].as_py() for column in first.columns)
        yield values, table if len(groups) == 1 else table.take(pa.array(rows))
