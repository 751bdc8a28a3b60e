"""The sink `Files`: parts as files on any fsspec storage. Its `format` names one of `formats.py`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

from runner.arrow.schemas import DoesNotFit
from runner.errors import ConfigError
from runner.sinks import formats
from runner.storage.folder import Folder
from runner.storage.locations import absolute
from runner.storage.parallel import map_in_threads
from runner.storage.transience import is_of_storage, is_transient, retrying
from runner.types import SaveMode, Shard, Sink, Written
from runner.words.exceptions import describe

if TYPE_CHECKING:
    import pyarrow as pa

ONE_REQUEST = 8 * 1024**2  # bytes, up to which a part is read as a whole

FormatName = Literal["parquet", "csv", "jsonl", "arrow"]


class _Last:
    """Tables, of which the last is remembered.

    Attributes:
        table: The last that came.
        rows: Of all that came.
        coming: Whether the next is awaited: an error is then not of encoding one.
    """

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables, self.coming, self.rows = tables, False, 0
        self.table: pa.Table | None = None

    def __iter__(self) -> Iterator[pa.Table]:
        return self

    def __next__(self) -> pa.Table:
        self.coming = True
        table = next(self._tables, None)
        self.coming = False
        if table is None:
            raise StopIteration
        self.table = table
        self.rows += table.num_rows
        return table


@dataclass(frozen=True)
class Files(Sink):
    """One file per shard.

    Attributes:
        format: Of the parts.
        path: Folder or URI; `None` is the run's own output directory.
        save_mode: `resume` finishes what is recorded; `append` also plans new input; `overwrite` replaces; `error`
            refuses a sink that is not empty.
        keep_columns: Input columns that go with the predictions: names, or `all`.
        layout: `flat`, or `like_source`: parts lie in the folders that their input lies in.
        storage_options: fsspec's options.
        accept: Fingerprint fields whose difference is accepted on resume.
        compression: Of Parquet and Arrow parts.
    """

    format: FormatName
    path: str | None = None
    save_mode: SaveMode = "resume"
    keep_columns: list[str] | Literal["all"] = field(default_factory=list)
    layout: Literal["flat", "like_source"] = "flat"
    storage_options: dict[str, Any] = field(default_factory=dict)
    accept: list[str] = field(default_factory=list)
    compression: formats.Compression = "zstd"

    @property
    def records(self) -> Folder:
        """The folder that everything lies below, parts and records."""
        if self.path is None:
            raise ConfigError("sink.path: none was given")
        return Folder(absolute(self.path), self.storage_options)

    def part(self, shard: Shard) -> str:
        """Path of the shard's part below the folder."""
        name = f"{shard.name}.{self.format}"
        return posixpath.join(shard.folder, name) if self.layout == "like_source" else name

    def settings(self) -> Mapping[str, Any]:
        """What changes the bytes or the names of parts."""
        return {
            "format": self.format,
            "keep_columns": self.keep_columns,
            "layout": self.layout,
            "compression": self.compression,
        }

    def check(self, schema: pa.Schema) -> None:
        """Refuse a schema that the format cannot hold.

        Raises:
            ConfigError: Naming the columns.
        """
        if refusal := self._format.refusal(schema):
            raise ConfigError(f"sink.format={self.format}: {refusal}")

    def committed(self, shards: Sequence[Shard], names: Mapping[str, int]) -> dict[str, int | None]:
        """The parts that are listed."""
        found = ((shard.id, names.get(self.part(shard))) for shard in shards)
        return {shard: None if size < 0 else size for shard, size in found if size is not None}

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish the part in one atomic step; if `tables` raises, nothing is left."""
        with self.records.publish(self.part(shard)) as file:
            rows = self._encode(file, schema, tables)
            return file.written()._replace(rows=rows)

    def _encode(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
        """Write the tables; returns how many rows. A value that the format cannot hold is told with its column and row."""
        given = _Last(tables)
        try:
            self._format.write(file, schema, given)
        except Exception as error:
            not_ours = given.table is None or given.coming or is_of_storage(error)
            found = None if not_ours else formats.culprit(self._format, given.table)
            if found is None:
                raise
            raise DoesNotFit(f"sink.format={self.format} cannot hold {found}: {describe(error)}") from error
        return given.rows

    def examine(self, shard: Shard, size: int | None = None) -> Written | None:
        """The part as it lies there; a small one comes in one request.

        Raises:
            ValueError: It is damaged.
        """
        try:
            return retrying(lambda: self._examine(self.part(shard), size))
        except FileNotFoundError:
            return None

    def _examine(self, name: str, size: int | None) -> Written:
        with self._opened(name, size) as file:
            checksum, stored = hashlib.file_digest(file, "sha256").hexdigest(), file.seek(0, os.SEEK_END)
            return Written(stored, f"sha256:{checksum}", self._count_rows(file))

    @contextlib.contextmanager
    def _opened(self, name: str, size: int | None) -> Iterator[Any]:
        if size is None or size > ONE_REQUEST:
            with self.records.opened(name) as file:
                yield file
        elif (content := self.records.read(name)) is None:
            raise FileNotFoundError(name)
        else:
            yield io.BytesIO(content)

    def _count_rows(self, file: IO[bytes]) -> int:
        try:
            return self._format.count_rows(file)
        except OSError as error:
            if error.errno is not None or is_transient(error):
                raise
            raise ValueError(str(error)) from None  # of pyarrow, which cannot decode it: no trouble with the storage

    def remove(self, shards: Sequence[Shard]) -> None:
        """Delete the files, several at a time."""
        for _ in map_in_threads(self.records.delete, map(self.part, shards)):
            pass

    @property
    def _format(self) -> formats.Format:
        kinds: dict[str, formats.Format] = {
            "parquet": formats.Parquet(self.compression),
            "csv": formats.Csv(),
            "jsonl": formats.Jsonl(),
            "arrow": formats.Arrow(self.compression),
        }
        return kinds[self.format]
