"""Keeps the rows of a part until all of them are there: in memory, and beyond some size in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.arrow.checksums import RowSum

if TYPE_CHECKING:
    import pyarrow as pa

IN_MEMORY = 64 * 1024**2  # bytes


class Spool(AbstractContextManager["Spool"]):
    """Tables of one schema, and the sum of their rows. The file is deleted when the context ends.

    A part is written in one transaction. If that were open while the rows are predicted, which may take minutes, it would keep others from
    the database, and be lost with its connection.
    """

    def __init__(self, schema: pa.Schema, most: int = IN_MEMORY) -> None:
        """Take the schema of all tables, and the bytes that memory may hold."""
        self.schema, self.sum = schema, RowSum()
        self._most, self._bytes = most, 0
        self._tables: list[pa.Table] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Any = None

    def add(self, table: pa.Table) -> None:
        """Add a table."""
        self.sum.add(table)
        self._bytes += table.nbytes
        self._tables.append(table)
        if self._bytes > self._most:
            self._spill()

    def _spill(self) -> None:
        import pyarrow as pa

        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="part-")
            self._writer = pa.ipc.new_file(str(self._path), self.schema)
        for table in self._tables:
            self._writer.write_table(table)
        self._tables, self._bytes = [], 0

    @property
    def _path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name, "rows.arrow")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows, in the order in which they came; nothing is added any more."""
        import pyarrow as pa

        if self._folder is not None:
            self._spill()
            self._writer.close()
            with pa.memory_map(str(self._path)) as file:
                reader = pa.ipc.open_file(file)
                for i in range(reader.num_record_batches):
                    yield reader.get_batch(i)
        for table in self._tables:
            yield from table.to_batches()

    def __exit__(self, *error: object) -> None:
        """Delete the file."""
        if self._writer is not None:
            self._writer.close()
        if self._folder is not None:
            self._folder.cleanup()
