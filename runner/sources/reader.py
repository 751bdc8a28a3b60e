"""What workers read fragments of files with."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ConfigError, RunnerError
from runner.sources import partitions
from runner.sources.filters import filter_columns, filter_expression, skipping_filter
from runner.sources.formats import Format, Items
from runner.storage.locations import is_local
from runner.storage.transience import is_transient
from runner.types import RAW, Filters, Fragment, Input, Unreadable
from runner.words.plain import first_line

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

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield tables of the rows that pass the filters, cast to the schema; of a tolerant source also each `Unreadable` row.

        Raises:
            ConfigError: The file is damaged, or another than the one that was listed.
        """
        try:
            yield from self._read(fragment, columns)
        except Exception as error:
            _refuse_changed(fragment.input)
            if isinstance(error, RunnerError | PermissionError | FileNotFoundError) or is_transient(error):
                raise
            raise ConfigError(self._told(fragment, error)) from error
        _refuse_changed(fragment.input)

    def _told(self, fragment: Fragment, error: Exception) -> str:
        """What is wrong with a file, and what to do."""
        groups = fragment.span
        place = f"row groups {groups[0]} to {groups[1] - 1}: " if groups else ""
        return f"{place}{first_line(error)}{remedy(fragment.input.name)}"

    def _read(self, fragment: Fragment, columns: Sequence[str] | None) -> Iterator[pa.Table | Unreadable]:
        names = self.schema.names if columns is None else list(columns)
        keep = filter_expression(self.filters, self.schema)
        for _, table in self._tables(fragment, names):
            if isinstance(table, Unreadable):
                yield table
                continue
            passed = table if keep is None else table.filter(keep)
            if passed.num_rows:
                yield passed.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the row number within the file of each row that `read` yields, less those of rows that cannot be parsed."""
        import numpy as np
        import pyarrow as pa

        keep = filter_expression(self.filters, self.schema)
        for first, table in self._tables(fragment, self.schema.names[:1]):
            if isinstance(table, Unreadable):
                continue
            numbered = table.append_column("", pa.array(np.arange(first, first + table.num_rows)))
            kept = numbered if keep is None else numbered.filter(keep)
            yield from kept.column("").to_pylist()

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """The rows of these numbers within the file, ascending, with every column that is stored, and the partition's.

        A column of text that this job does not read may hold a value that is not of the type which the first block told. Then the rows
        have the columns of the job only, and `RAW`: each as it stands in the file.
        """
        import pyarrow as pa

        look = self.format.look(fragment.input, self.storage_options)
        stored = look.schema if look.schema is not None else pa.schema([])
        found = self._rows_of(fragment, numbers, stored) if numbers else []
        if found is not None and sum(table.num_rows for table in found) == len(numbers):
            return pa.concat_tables(found or [self._whole(fragment, stored).empty_table()])
        return self._with_texts(
            fragment, numbers, pa.schema([each for each in self.schema if each.name in stored.names])
        )

    def _rows_of(self, fragment: Fragment, numbers: Sequence[int], columns: pa.Schema) -> list[pa.Table] | None:
        """Tables of these rows; `None` where the file cannot be read with such columns."""
        partition = self._partition(fragment)
        whole = self._whole(fragment, columns)
        stored = _without(whole, partition)
        found = []
        try:
            for first, table in self.format.read(fragment, stored, self.storage_options, None):
                inside = [number - first for number in numbers if first <= number < first + table.num_rows]
                if inside and not isinstance(table, Unreadable):
                    found += [
                        _shaped(table.slice(each, 1), whole, partition) for each in inside
                    ]  # not every type can be taken
        except ValueError:
            if not hasattr(self.format, "texts"):
                raise
            return None
        return found

    def _with_texts(self, fragment: Fragment, numbers: Sequence[int], columns: pa.Schema) -> pa.Table:
        import pyarrow as pa

        found = pa.concat_tables(self._rows_of(fragment, numbers, columns) or [columns.empty_table()])
        text: Any = self.format
        texts = text.texts(fragment.input, self.storage_options, numbers)
        return found.append_column(RAW, pa.array([texts.get(number) for number in numbers], pa.string()))

    def _whole(self, fragment: Fragment, columns: pa.Schema) -> pa.Schema:
        """These columns, and those of the partition."""
        import pyarrow as pa

        partition = self._partition(fragment)
        return pa.schema([*_without(columns, partition), *(self._partition_field(key) for key in partition)])

    def _partition(self, fragment: Fragment) -> Mapping[str, str | None]:
        return partitions.parse(fragment.input.folder) if self.partitioning else {}

    def _partition_field(self, key: str) -> pa.Field:
        import pyarrow as pa

        return self.schema.field(key) if key in self.schema.names else pa.field(key, pa.string())

    def _tables(self, fragment: Fragment, names: Sequence[str]) -> Items:
        """Tables with the named columns and those that the filters look at.

        Where rows that cannot be parsed are tolerated, all columns are parsed whichever are named: which rows those are must not
        depend on it.
        """
        import pyarrow as pa

        if fragment.rows == 0 or fragment.input.size == 0:
            return
        partition = self._partition(fragment)
        every = self.schema.names if getattr(self.format, "tolerant", False) else names
        wanted = pa.schema([self.schema.field(name) for name in dict.fromkeys([*every, *filter_columns(self.filters)])])
        stored = _without(wanted, partition)
        skip = skipping_filter(self.filters, self.schema, partition)
        for first, table in self.format.read(fragment, stored, self.storage_options, skip):
            yield first, table if isinstance(table, Unreadable) else _shaped(table, wanted, partition)


def _without(schema: pa.Schema, names: Container[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([column for column in schema if column.name not in names])


def remedy(path: str) -> str:
    """What to do about a file that cannot be used."""
    return f"; mend it, or leave it out: errors.skip_files=[{posixpath.basename(path)}]"


def _refuse_changed(file: Input) -> None:
    """Refuse a local file that is not the one that was listed any more; elsewhere asking costs a request.

    Raises:
        ConfigError: It changed.
    """
    if not is_local(file.name):
        return
    with contextlib.suppress(OSError):  # gone: whoever reads it tells
        there = os.stat(file.name)  # noqa: PTH116
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
