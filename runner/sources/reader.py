"""What workers read fragments of files with."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ConfigError, RunnerError
from runner.locations import is_local
from runner.sources import partitions
from runner.sources.filters import filter_columns, filter_expression, skipping_filter
from runner.sources.formats import Format, first_line
from runner.transience import is_transient
from runner.types import File, Filters, Fragment

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FilesReader:
    """Reads fragments of files; see `Files` for the attributes.

    Attributes:
        schema: Names, order and types of all that is offered, partitions included.
    """

    format: Format
    schema: pa.Schema
    filters: Filters
    partitioning: Literal["hive"] | None
    storage_options: Mapping[str, Any]

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows that pass the filters, cast to the schema.

        Raises:
            ConfigError: The file is damaged, or another than the one that was listed.
        """
        try:
            yield from self._read(fragment, columns)
        except Exception as error:
            _refuse_changed(fragment.file)
            if isinstance(error, RunnerError | PermissionError | FileNotFoundError) or is_transient(error):
                raise
            raise ConfigError(self._told(fragment, error)) from error
        _refuse_changed(fragment.file)

    def _told(self, fragment: Fragment, error: Exception) -> str:
        """What is wrong with a file, and what to do."""
        groups = fragment.row_groups
        place = f"row groups {groups[0]} to {groups[1] - 1}: " if groups else ""
        return f"{place}{first_line(error)}{remedy(fragment.file.path)}"

    def _read(self, fragment: Fragment, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        names = self.schema.names if columns is None else list(columns)
        keep = filter_expression(self.filters, self.schema)
        for _, table in self._tables(fragment, names):
            passed = table if keep is None else table.filter(keep)
            if passed.num_rows:
                yield passed.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the row number within the file of each row that `read` yields."""
        import numpy as np
        import pyarrow as pa

        keep = filter_expression(self.filters, self.schema)
        for first, table in self._tables(fragment, self.schema.names[:1]):
            numbered = table.append_column("", pa.array(np.arange(first, first + table.num_rows)))
            kept = numbered if keep is None else numbered.filter(keep)
            yield from kept.column("").to_pylist()

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """The rows of these numbers within the file, ascending, with every column that is stored, and the partition's."""
        import pyarrow as pa

        partition = partitions.parse(fragment.file.folder) if self.partitioning else {}
        schema = self.format.look(fragment.file, self.storage_options).schema or pa.schema([])
        stored = pa.schema([column for column in schema if column.name not in partition])
        whole = pa.schema([*stored, *(self._partition_field(key) for key in partition)])
        found = []
        for first, table in self.format.read(fragment, stored, self.storage_options, None):
            inside = [number - first for number in numbers if first <= number < first + table.num_rows]
            if inside:
                found.append(_shaped(table.take(inside), whole, partition))
        return pa.concat_tables(found)

    def _partition_field(self, key: str) -> pa.Field:
        import pyarrow as pa

        return self.schema.field(key) if key in self.schema.names else pa.field(key, pa.string())

    def _tables(self, fragment: Fragment, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Tables with the named columns and those that the filters look at."""
        import pyarrow as pa

        if fragment.rows == 0 or fragment.file.size == 0:
            return
        partition = partitions.parse(fragment.file.folder) if self.partitioning else {}
        wanted = pa.schema([self.schema.field(name) for name in dict.fromkeys([*names, *filter_columns(self.filters)])])
        stored = pa.schema([column for column in wanted if column.name not in partition])
        skip = skipping_filter(self.filters, self.schema, partition)
        for first, table in self.format.read(fragment, stored, self.storage_options, skip):
            yield first, _shaped(table, wanted, partition)


def remedy(path: str) -> str:
    """What to do about a file that cannot be used."""
    return f"; mend it, or leave it out: errors.skip_files=[{posixpath.basename(path)}]"


def _refuse_changed(file: File) -> None:
    """Refuse a local file that is not the one that was listed any more; elsewhere asking costs a request.

    Raises:
        ConfigError: It changed.
    """
    if not is_local(file.path):
        return
    with contextlib.suppress(OSError):  # gone: whoever reads it tells
        there = os.stat(file.path)  # noqa: PTH116
        if (there.st_size, str(there.st_mtime)) != (file.size, file.version):
            raise ConfigError(
                "it changed since it was listed; sink.save_mode=overwrite starts over with what is there now"
            )


def _shaped(table: pa.Table, schema: pa.Schema, partition: Mapping[str, str | None]) -> pa.Table:
    """The table with exactly the schema's columns and types; partition keys become constant columns."""
    import pyarrow as pa

    def column(field: pa.Field) -> Any:
        if field.name in partition:
            return pa.repeat(pa.scalar(partitions.typed(partition[field.name], field.type), field.type), table.num_rows)
        found = table.column(field.name)
        return found if found.type == field.type else found.cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)
