"""Reads the data files of a Delta table in workers: with the values that only the log has, and without the rows that it deletes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from runner.errors import ConfigError, RunnerError
from runner.sources.filters import skipping_filter
from runner.sources.numbered import NUMBER, Tables, filtered, rows_of
from runner.sources.opening import NEAR_BYTES, open_ranges
from runner.sources.parquet import read_groups
from runner.storage import delta
from runner.storage.transience import is_transient
from runner.types import Filters, Fragment
from runner.words.plain import first_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

GONE = (
    "is gone: VACUUM deletes files that only older versions of the table have; sink.save_mode=overwrite starts over "
    "with what is there now"
)


class Pinned(NamedTuple):
    """How a data file is read as it was in one version of its table. It is the version of the input, so the recorded plan keeps it.

    Attributes:
        table: The table's id.
        version: The table's version.
        partition: Values of the partition columns, as text.
        deletes: Whether a deletion vector of that version names rows of the file.
    """

    table: str
    version: int
    partition: Mapping[str, str | None]
    deletes: bool

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(["delta", *self])

    @classmethod
    def of(cls, version: str) -> Pinned | None:
        """Return what `text` returned as it was; `None` for the version of another kind of input."""
        try:
            found = json.loads(version)
        except ValueError:
            return None
        return cls(*found[1:]) if isinstance(found, list) and found[:1] == ["delta"] else None


def file_uri(root: str, path: str) -> str:
    """Return where a file lies that the log names: below the table's root, unless the table is a shallow copy of another."""
    return unquote(path) if "://" in path else f"{root.rstrip('/')}/{unquote(path)}"


@dataclass(frozen=True)
class DeltaReader:
    """Reads row groups of data files.

    Attributes:
        root: Of the table.
        options: fsspec's storage options.
        log_options: deltalake's, for deletion vectors.
        whole: All columns of the table.
        stored: The names that columns have in the files, where these are others.
        schema: Names, order and types of all columns that the source offers.
        filters: Row filters.
    """

    root: str
    options: Mapping[str, Any] = field(repr=False)
    log_options: Mapping[str, str] = field(repr=False)
    whole: pa.Schema
    stored: Mapping[str, str]
    schema: pa.Schema
    filters: Filters

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield tables of the rows that are not deleted and pass the filters, cast to the schema.

        Raises:
            ConfigError: The file is damaged, or does not fit the table.
        """
        names = self.schema.names if columns is None else list(columns)
        for table in filtered(self._numbered(fragment), names, self.schema, self.filters):
            yield table.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the number within its file of each row that `read` yields. Deleted rows are counted, too."""
        for table in filtered(self._numbered(fragment), self.schema.names[:1], self.schema, self.filters):
            yield from table.column(NUMBER).to_pylist()

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """Return the rows of these numbers, with every column that the table has."""
        return rows_of(partial(self._tables, fragment, None), numbers, self.schema, self.whole)

    def _numbered(self, fragment: Fragment) -> Tables:
        return partial(self._tables, fragment, self._skip(fragment))

    def _skip(self, fragment: Fragment) -> pa.Expression | None:
        """The filter that tells which row groups need not be read, where the file has the columns under their own names."""
        pinned = Pinned.of(fragment.input.version)
        return None if self.stored or pinned is None else skipping_filter(self.filters, self.schema, pinned.partition)

    def _tables(self, fragment: Fragment, skip: pa.Expression | None, wanted: pa.Schema) -> Iterator[pa.Table]:
        """Yield tables with these columns, and each row's number. What goes wrong is told for people."""
        try:
            yield from self._live(fragment, wanted, skip)
        except FileNotFoundError as error:
            raise ConfigError(f"{fragment.input.name} {GONE}") from error
        except (RunnerError, PermissionError):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            raise ConfigError(first_line(error)) from error

    def _live(self, fragment: Fragment, wanted: pa.Schema, skip: pa.Expression | None) -> Iterator[pa.Table]:
        """Yield the rows that no deletion vector names."""
        import numpy as np
        import pyarrow as pa

        pinned = Pinned.of(fragment.input.version)
        assert pinned is not None, "`inspect` refuses others"
        deleted = self._deleted(pinned, fragment.input.name) if pinned.deletes else None
        for first, table in self._stored(fragment, wanted, pinned, skip):
            numbers = np.arange(first, first + table.num_rows)
            columns = [self._column(table, column, pinned) for column in wanted]
            numbered = pa.table([*columns, pa.array(numbers)], schema=wanted.append(pa.field(NUMBER, pa.int64())))
            yield numbered if deleted is None else numbered.filter(pa.array(~np.isin(numbers, deleted)))

    def _deleted(self, pinned: Pinned, name: str) -> np.ndarray[Any, Any]:
        options = json.dumps(dict(self.log_options), sort_keys=True)
        return deleted_rows(self.root, options, pinned.version)[name]

    def _stored(
        self, fragment: Fragment, wanted: pa.Schema, pinned: Pinned, skip: pa.Expression | None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield what the file has of these columns, each table with the number of its first row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with open_ranges(fragment.input, self.options, NEAR_BYTES) as (handle, ranges):
            footer = pq.read_metadata(handle)
            there = footer.schema.to_arrow_schema()
            names = (self.stored.get(name, name) for name in wanted.names if name not in pinned.partition)
            columns = pa.schema([there.field(name) for name in names if name in there.names])
            yield from read_groups(handle, footer, fragment, columns, skip, ranges)

    def _column(self, table: pa.Table, column: pa.Field, pinned: Pinned) -> Any:
        """Return a column as the table has it: from the file, from the log, or null where the file is older than the column."""
        import pyarrow as pa

        name = self.stored.get(column.name, column.name)
        if column.name in pinned.partition:
            value = pa.array([pinned.partition[column.name]], pa.string()).cast(column.type)[0]
            return pa.repeat(value, table.num_rows)
        if name not in table.column_names:
            return pa.nulls(table.num_rows, column.type)
        found = table.column(name)
        return found if found.type == column.type else found.cast(column.type)


@lru_cache(maxsize=4)
def deleted_rows(root: str, log_options: str, version: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return the numbers of the deleted rows by file, in a version of a table that has deletion vectors."""
    import numpy as np
    import pyarrow as pa

    table = delta.opened(root, json.loads(log_options), version)
    found = pa.table(table.deletion_vectors())
    places = (_plain(uri, root) for uri in found.column("filepath").to_pylist())
    return {
        place: np.flatnonzero(~np.asarray(kept.as_py(), bool))
        for place, kept in zip(places, found.column("selection_vector"), strict=True)
    }


def _plain(uri: str, root: str) -> str:
    """Return a URI of deltalake's as inputs are named: a local path without its scheme."""
    return (
        unquote(uri.removeprefix("file://"))
        if "://" not in root
        else file_uri(root, uri.removeprefix(f"{delta.spelled(root)}/"))
    )
