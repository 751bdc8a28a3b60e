"""Reads fragments of files in workers: columns are selected and cast, rows filtered, partition keys added."""

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
from runner.storage.transience import Changed, is_transient
from runner.types import RAW, Filters, Fragment, Input, Unreadable
from runner.words.plain import first_line, range_in_words

if TYPE_CHECKING:
    import pyarrow as pa


CHANGED = "it changed since it was listed; sink.save_mode=overwrite starts over with what is there now"


@dataclass(frozen=True)
class FilesReader:
    """Reads fragments of files; attributes that are not listed here are those of `Files`.

    Attributes:
        format: Reads files of this format.
        schema: Names, order and types of all columns that the source offers, partition keys included.
    """

    format: Format
    schema: pa.Schema
    filters: Filters
    partitioning: Literal["hive"] | None
    storage_options: Mapping[str, Any]

    @property
    def left_out(self) -> Sequence[str]:
        """Return the columns that `whole_rows` leaves out."""
        return getattr(self.format, "left_out", ())

    @property
    def busy(self) -> bool:
        """Return whether reading takes more work than waiting."""
        return getattr(self.format, "busy", False)

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield tables of the rows that pass the filters, cast to the schema; a tolerant source also yields each `Unreadable` row.

        Args:
            fragment: What to read.
            columns: Names of the columns, in the order of the result; `None` for all.

        Raises:
            ConfigError: The file is damaged, or is not the one that was listed any more.
        """
        try:
            yield from self._read(fragment, columns)
        except Changed as changed:
            raise ConfigError(CHANGED) from changed
        except Exception as error:
            _refuse_changed(fragment.input)
            if isinstance(error, RunnerError | PermissionError | FileNotFoundError) or is_transient(error):
                raise
            raise ConfigError(self._problem(fragment, error)) from error
        _refuse_changed(fragment.input)

    def _problem(self, fragment: Fragment, error: Exception) -> str:
        """Return a message that says what is wrong with a file, and what to do."""
        told = first_line(error)
        placed = fragment.span is None or told.startswith("line ")  # of the file
        place = "" if placed else f"{range_in_words(fragment.span or (), 'row group')}: "
        return f"{place}{told}{skip_hint(fragment.input.name)}"

    def _read(self, fragment: Fragment, columns: Sequence[str] | None) -> Iterator[pa.Table | Unreadable]:
        names = self.schema.names if columns is None else list(columns)
        keep = filter_expression(self.filters, self.schema)
        before: int | None = None  # counted only if a row is to be named
        for _, table in self._tables(fragment, names):
            if isinstance(table, Unreadable):
                before = self._rows_before(fragment) if before is None else before
                yield table._replace(number=before + table.number)
                continue
            passed = table if keep is None else table.filter(keep)
            if passed.num_rows:
                yield passed.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the number within the file of each row that `read` yields as part of a table."""
        import numpy as np
        import pyarrow as pa

        keep = filter_expression(self.filters, self.schema)
        before = self._rows_before(fragment)
        for start, table in self._tables(fragment, self.schema.names[:1]):
            if isinstance(table, Unreadable):
                continue
            first = before + start
            numbered = table.append_column("", pa.array(np.arange(first, first + table.num_rows)))
            kept = numbered if keep is None else numbered.filter(keep)
            yield from kept.column("").to_pylist()

    def _rows_before(self, fragment: Fragment) -> int:
        """Return how many rows of the file come before those that the format numbers from 0: none, but within ranges of a text file."""
        if fragment.span is None or not hasattr(self.format, "rows_before"):
            return 0
        stored = _without_columns(self.schema, self._partition(fragment))
        return int(self.format.rows_before(fragment, self.storage_options, stored))

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """Return the rows of these numbers with every column that the file stores, and the partition keys.

        In a text file, a column that this job does not read may have a value that does not fit the type inferred from the first block.
        Then the rows have only the columns of the job, and the column `RAW`: each row as it stands in the file.

        Args:
            fragment: The fragment that the rows are in.
            numbers: Numbers within the file, ascending.
        """
        import pyarrow as pa

        contents = self.format.inspect(fragment.input, self.storage_options)
        stored = _without_columns(contents.schema if contents.schema is not None else pa.schema([]), self.left_out)
        found = self._rows_of(fragment, numbers, stored) if numbers else []
        if found is not None and sum(table.num_rows for table in found) == len(numbers):
            return pa.concat_tables(found or [self._whole(fragment, stored).empty_table()])
        return self._with_texts(
            fragment, numbers, pa.schema([each for each in self.schema if each.name in stored.names])
        )

    def _rows_of(self, fragment: Fragment, numbers: Sequence[int], columns: pa.Schema) -> list[pa.Table] | None:
        """Return tables of these rows; `None` if a text file cannot be read with these columns."""
        partition = self._partition(fragment)
        whole = self._whole(fragment, columns)
        stored = _without_columns(whole, partition)
        found = []
        before = self._rows_before(fragment)
        try:
            for start, table in self.format.read(fragment, stored, self.storage_options, None):
                first = before + start
                inside = [number - first for number in numbers if first <= number < first + table.num_rows]
                if inside and not isinstance(table, Unreadable):
                    found += [
                        _cast_table(table.slice(each, 1), whole, partition) for each in inside
                    ]  # not every type can be taken
        except ValueError:
            if not hasattr(self.format, "row_texts"):
                raise
            return None
        return found

    def _with_texts(self, fragment: Fragment, numbers: Sequence[int], columns: pa.Schema) -> pa.Table:
        import pyarrow as pa

        found = pa.concat_tables(self._rows_of(fragment, numbers, columns) or [columns.empty_table()])
        text: Any = self.format
        texts = text.row_texts(fragment.input, self.storage_options, numbers)
        return found.append_column(RAW, pa.array([texts.get(number) for number in numbers], pa.string()))

    def _whole(self, fragment: Fragment, columns: pa.Schema) -> pa.Schema:
        """Return these columns, and those of the partition keys."""
        import pyarrow as pa

        partition = self._partition(fragment)
        return pa.schema([*_without_columns(columns, partition), *(self._partition_field(key) for key in partition)])

    def _partition(self, fragment: Fragment) -> Mapping[str, str | None]:
        return partitions.parse(fragment.input.folder) if self.partitioning else {}

    def _partition_field(self, key: str) -> pa.Field:
        import pyarrow as pa

        return self.schema.field(key) if key in self.schema.names else pa.field(key, pa.string())

    def _tables(self, fragment: Fragment, names: Sequence[str]) -> Items:
        """Yield tables with the named columns and those that the filters use.

        If rows that cannot be parsed are tolerated, all columns are parsed, whichever are named: which rows count as bad must not
        depend on the columns.
        """
        import pyarrow as pa

        if fragment.rows == 0 or (fragment.rows is None and fragment.input.size == 0):
            return
        partition = self._partition(fragment)
        every = self.schema.names if getattr(self.format, "tolerant", False) else names
        wanted = pa.schema([self.schema.field(name) for name in dict.fromkeys([*every, *filter_columns(self.filters)])])
        stored = _without_columns(wanted, partition)
        skip = skipping_filter(self.filters, self.schema, partition)
        for first, table in self.format.read(fragment, stored, self.storage_options, skip):
            yield first, table if isinstance(table, Unreadable) else _cast_table(table, wanted, partition)


def _without_columns(schema: pa.Schema, names: Container[str]) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([column for column in schema if column.name not in names])


def skip_hint(path: str) -> str:
    """Return the end of a message that says what to do about a file that cannot be used."""
    return f"; mend it, or leave it out: errors.skip_files=[{posixpath.basename(path)}]"


def _refuse_changed(file: Input) -> None:
    """Raise an error if a local file has changed since it was listed. For a remote file this would cost a request; see `Changed`.

    Raises:
        ConfigError: It has changed.
    """
    if not is_local(file.name):
        return
    with contextlib.suppress(OSError):  # it was deleted: reading it reports that
        there = os.stat(file.name)  # noqa: PTH116
        if (there.st_size, str(there.st_mtime)) != (file.size, file.version):
            raise ConfigError(CHANGED)


def _cast_table(table: pa.Table, schema: pa.Schema, partition: Mapping[str, str | None]) -> pa.Table:
    """Return the table with exactly the schema's columns and types; partition keys become constant columns."""
    import pyarrow as pa

    def column(field: pa.Field) -> Any:
        if field.name in partition:
            return pa.repeat(pa.scalar(partitions.typed(partition[field.name], field.type), field.type), table.num_rows)
        found = table.column(field.name)
        return found if found.type == field.type else found.cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)
