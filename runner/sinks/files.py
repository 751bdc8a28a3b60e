"""Parts as files on any fsspec storage."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runner.arrow.schemas import DoesNotFit
from runner.errors import ConfigError
from runner.sinks import formats
from runner.storage.folder import Folder
from runner.storage.locations import absolute
from runner.storage.transience import is_of_storage
from runner.types import SaveMode, Shard, Written
from runner.words.exceptions import told

if TYPE_CHECKING:
    import pyarrow as pa

FormatName = Literal["parquet", "csv", "jsonl", "arrow"]


class _Last:
    """Tables, of which the last is remembered.

    Attributes:
        table: The last that came.
        coming: Whether the next is awaited: an error is then not of encoding one.
    """

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables, self.coming = tables, False
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
        return table


@dataclass(frozen=True)
class Files:
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
    def store(self) -> Folder:
        """The folder that everything lies below."""
        if self.path is None:
            raise ConfigError("sink.path: none was given")
        return Folder(absolute(self.path), self.storage_options)

    def file_name(self, shard: Shard) -> str:
        """Path of the shard's part below the sink."""
        folder = shard.folder if self.layout == "like_source" else ""
        return posixpath.join(folder, f"{shard.name}.{self.format}")

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

    def write(self, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Written:
        """Publish the part in one atomic step; if `tables` raises, nothing is left."""
        with self.store.publish(self.file_name(shard)) as file:
            self._encode(file, schema, tables)
            return file.written()

    def _encode(self, file: Any, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write the tables; a value that the format cannot hold is told with its column and row."""
        given = _Last(tables)
        try:
            self._format.write(file, schema, given)
        except Exception as error:
            not_ours = given.table is None or given.coming or is_of_storage(error)
            found = None if not_ours else formats.culprit(self._format, given.table)
            if found is None:
                raise
            raise DoesNotFit(f"sink.format={self.format} cannot hold {found}: {told(error)}") from error

    def count_rows(self, content: bytes) -> int:
        """Rows of a part, given its bytes."""
        return self._format.count_rows(content)

    @property
    def _format(self) -> formats.Format:
        kinds: dict[str, formats.Format] = {
            "parquet": formats.Parquet(self.compression),
            "csv": formats.Csv(),
            "jsonl": formats.Jsonl(),
            "arrow": formats.Arrow(self.compression),
        }
        return kinds[self.format]
