"""Files on any fsspec storage, in any format that pyarrow reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ConfigError
from runner.sources import formats
from runner.sources.formats import Format, FormatName, Look
from runner.sources.listing import list_files, nearest_existing
from runner.sources.partitions import may_match, parse, with_partitions
from runner.storage import is_transient
from runner.types import File, Filters, Fragment

if TYPE_CHECKING:
    import pyarrow as pa

PARALLEL_FOOTERS = 16
SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class Files:
    """Files of one format.

    Attributes:
        path: A URI, a glob, a folder, or a list of them.
        format: How they are read. CSV, JSON lines, Arrow and ORC files are one fragment each; Parquet files are split at
            row groups.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples (`[["age", ">", 3]]`), or a list of such lists, of which one must hold.
        partitioning: `hive` turns `key=value` folders below the root into columns; `None` ignores them.
        storage_options: fsspec's options.
        allow_empty: Whether no file at all is a success.
        delimiter: Of CSV.
        column_types: Of CSV, column to Arrow type name, where the first block of a file misleads.
    """

    path: str | list[str]
    format: FormatName
    columns: list[str] | None = None
    filters: Filters = None
    partitioning: Literal["hive"] | None = "hive"
    storage_options: dict[str, Any] = field(default_factory=dict)
    allow_empty: bool = False
    delimiter: str = ","
    column_types: dict[str, str] = field(default_factory=dict)

    def files(self) -> list[File]:
        """All files, in input order, less those whose partition no filter lets pass.

        Raises:
            ConfigError: There is none, and `allow_empty` is false.
        """
        paths = [self.path] if isinstance(self.path, str) else self.path
        found = [
            file for file in list_files(paths, self.storage_options) if may_match(self._partition(file), self.filters)
        ]
        if not found and not self.allow_empty:
            raise ConfigError(self._nothing(paths))
        return found

    def _nothing(self, paths: list[str]) -> str:
        shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        there = nearest_existing(paths[0], self.storage_options) if paths else ""
        hint = f"; {there} exists, what should be below it does not" if there and there != paths[0] else ""
        return f"source.path={shown}: no files match{hint} (source.allow_empty=true makes an empty input a success)"

    def inspect(
        self, files: Sequence[File], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Read every file's footer (or first block) in bounded parallel.

        Raises:
            ConfigError: Files that cannot be read or lack a needed column, or whose schemas differ: which and how.
        """
        fragments: list[Fragment] = []
        shared = _Shared(self._offered(needed), permissive=self.format in {"csv", "jsonl"})
        with ThreadPoolExecutor(PARALLEL_FOOTERS) as pool:
            for file, look in zip(files, pool.map(self._look, files), strict=True):
                if isinstance(look, str):
                    shared.problems.append(look)
                elif look is None:
                    fragments.append(Fragment(file, 0, 0))
                else:
                    fragments += look.fragments
                    shared.add(file, look.schema)
        return fragments, shared.result()

    def _offered(self, needed: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """The columns that must be there, each with the key that asks for it; `None` for whatever is there."""
        if self.columns is None:
            return needed
        offered = dict.fromkeys(self.columns, "source.columns")
        if needed is None:
            return offered
        if hidden := [
            f"{key}: {name!r} is not among source.columns={self.columns}"
            for name, key in needed.items()
            if name not in offered
        ]:
            raise ConfigError(hidden)
        return needed

    def _look(self, file: File) -> Look | str | None:
        if file.size == 0:
            return None
        try:
            look = self._format.look(file, self.storage_options)
        except Exception as error:
            if is_transient(error):
                raise
            return f"source.path: {file.path} cannot be read as {self.format}: {_first_line(error)}"
        return look._replace(schema=with_partitions(look.schema.remove_metadata(), self._partition(file)))

    def reader(self, schema: pa.Schema) -> FilesReader:
        """What workers read with."""
        return FilesReader(self._format, schema, self.filters, self.partitioning, self.storage_options)

    def _partition(self, file: File) -> dict[str, str | None]:
        return parse(file.folder) if self.partitioning else {}

    @cached_property
    def _format(self) -> Format:
        if self.format == "csv":
            return formats.Csv(self.delimiter, self.column_types)
        kinds: dict[str, Format] = {
            "parquet": formats.Parquet(),
            "jsonl": formats.Jsonl(),
            "arrow": formats.Arrow(),
            "orc": formats.Orc(),
        }
        return kinds[self.format]


class _Shared:
    """The schema that all files share, as they come."""

    def __init__(self, needed: Mapping[str, str] | None, *, permissive: bool) -> None:
        self.problems: list[str] = []
        self._needed, self._promote = needed, "permissive" if permissive else "default"
        self._schema: pa.Schema | None = None
        self._first = ""
        self._told: set[str] = set()

    def add(self, file: File, schema: pa.Schema) -> None:
        import pyarrow as pa

        if self._needed is not None:
            if missing := [name for name in self._needed if name not in schema.names]:
                self._tell_missing(missing, self._needed, file, schema)
                return
            schema = pa.schema([schema.field(name) for name in self._needed])
        if self._schema is None:
            self._schema, self._first = schema, file.path
        elif not self._schema.equals(schema):
            self._merge(file, schema)

    def _tell_missing(self, missing: list[str], needed: Mapping[str, str], file: File, schema: pa.Schema) -> None:
        self.problems += [
            _missing(needed[name], name, file.path, schema.names) for name in missing if name not in self._told
        ]
        self._told.update(missing)

    def _merge(self, file: File, schema: pa.Schema) -> None:
        import pyarrow as pa

        assert self._schema is not None
        try:
            merged = pa.unify_schemas([self._schema, schema], promote_options=self._promote)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            merged = None
        if merged is None or len(merged) != len(self._schema) or len(merged) != len(schema):
            self.problems.append(
                f"source.path: the schemas differ: {_difference(self._first, self._schema, file.path, schema)}"
            )
        else:
            self._schema = merged

    def result(self) -> pa.Schema | None:
        if self.problems:
            more = len(self.problems) - SHOWN_PROBLEMS
            raise ConfigError(
                [
                    *self.problems[:SHOWN_PROBLEMS],
                    *([f"source.path: {more} more files like these"] if more > 0 else []),
                ]
            )
        return self._schema


def _missing(key: str, name: str, path: str, there: Sequence[str]) -> str:
    near = get_close_matches(name, there, 1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{key}: there is no column {name!r} in {path}{meant}; it has {', '.join(there)}"


def _difference(path: str, schema: pa.Schema, other_path: str, other: pa.Schema) -> str:
    only = [f"{name!r} only in {path}" for name in schema.names if name not in other.names]
    only += [f"{name!r} only in {other_path}" for name in other.names if name not in schema.names]
    kinds = [
        f"{name!r} is {schema.field(name).type} in {path}, {other.field(name).type} in {other_path}"
        for name in schema.names
        if name in other.names and schema.field(name).type != other.field(name).type
    ]
    return "; ".join([*kinds, *only]) + " (name the columns that agree in predict.columns)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


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
        """Yield the rows that pass the filters, cast to the schema."""
        names = self.schema.names if columns is None else list(columns)
        keep = self._keep
        for _, table in self._tables(fragment, names):
            passed = table if keep is None else table.filter(keep)
            if passed.num_rows:
                yield passed.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the row number within the file of each row that `read` yields."""
        import numpy as np
        import pyarrow as pa

        for first, table in self._tables(fragment, self.schema.names[:1]):
            numbered = table.append_column("", pa.array(np.arange(first, first + table.num_rows)))
            kept = numbered if self._keep is None else numbered.filter(self._keep)
            yield from kept.column("").to_pylist()

    @property
    def _keep(self) -> pa.Expression | None:
        return filter_expression(self.filters, self.schema)

    def _tables(self, fragment: Fragment, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Tables with the named columns and those that the filters look at."""
        import pyarrow as pa

        if fragment.rows == 0 or fragment.file.size == 0:
            return
        partition = parse(fragment.file.folder) if self.partitioning else {}
        wanted = pa.schema([self.schema.field(name) for name in dict.fromkeys([*names, *filter_columns(self.filters)])])
        stored = pa.schema([column for column in wanted if column.name not in partition])
        for first, table in self.format.read(fragment, stored, self.storage_options, self._keep_stored(partition)):
            yield first, _shaped(table, wanted, partition)

    def _keep_stored(self, partition: Mapping[str, Any]) -> pa.Expression | None:
        return None if set(filter_columns(self.filters)) & set(partition) else self._keep


def _shaped(table: pa.Table, schema: pa.Schema, partition: Mapping[str, str | None]) -> pa.Table:
    """The table with exactly the schema's columns and types; partition keys become constant columns."""
    import pyarrow as pa

    def column(field: pa.Field) -> Any:
        if field.name in partition:
            return pa.repeat(pa.scalar(partition[field.name], pa.string()).cast(field.type), table.num_rows)
        found = table.column(field.name)
        return found if found.type == field.type else found.cast(field.type)

    return pa.table([column(field) for field in schema], schema=schema)


def conjunctions(filters: Filters) -> list[list[Sequence[Any]]]:
    """The filters as a list of lists of (column, operator, value), of which one list must hold."""
    if not filters:
        return []
    return [list(filters)] if isinstance(filters[0][0], str) else [list(each) for each in filters]


def filter_columns(filters: Filters) -> list[str]:
    """The columns that filters look at."""
    return [term[0] for each in conjunctions(filters) for term in each]


def filter_expression(filters: Filters, schema: pa.Schema) -> pa.Expression | None:
    """Pyarrow's expression for the filters, values cast to the columns' types (YAML dates are strings).

    Raises:
        ConfigError: A column, an operator or a value that does not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not filters:
        return None
    try:
        return pq.filters_to_expression([[_typed(term, schema) for term in each] for each in conjunctions(filters)])
    except (ValueError, TypeError, KeyError, pa.ArrowException) as wrong:
        raise ConfigError(f"source.filters={filters}: {_first_line(wrong)}") from wrong


def _typed(term: Sequence[Any], schema: pa.Schema) -> tuple[str, str, Any]:
    import pyarrow as pa

    name, operator, value = term
    if name not in schema.names:
        raise ValueError(f"there is no column {name!r}; the data has {', '.join(islice(schema.names, 30))}")
    kind = schema.field(name).type

    def cast(one: Any) -> Any:
        return pa.scalar(one).cast(kind)

    return (
        name,
        operator,
        [cast(one).as_py() for one in value] if isinstance(value, list | tuple | set) else cast(value),
    )
