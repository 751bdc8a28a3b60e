"""The source `Iceberg`: the rows of one snapshot of an Iceberg table, and with `append` those that were appended since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from runner.errors import ConfigError, Incomplete
from runner.sources.filters import decidable, filter_expression
from runner.sources.iceberg_files import IcebergReader, Pinned, Storage, packed
from runner.sources.numbered import offered
from runner.sources.parquet import pieces_of_rows, row_groups
from runner.sources.schemas import first_problems
from runner.storage import iceberg
from runner.storage.iceberg import arrow_schema
from runner.storage.parallel import map_in_threads
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.types import Filters, Fragment, Input, Source
from runner.words.plain import first_line, named

if TYPE_CHECKING:
    import pyarrow as pa

START_OVER = "sink.save_mode=overwrite starts over with the newest snapshot"
COMPACT = "rewrite the data files with them first (Spark: CALL catalog.system.rewrite_data_files), or give an older source.snapshot_id"


@dataclass(frozen=True)
class Iceberg(Source):
    """A source that reads a table. An input is a data file, as it is in one snapshot; a fragment is a row group of it.

    Attributes:
        catalog: pyiceberg's properties, such as `type`, `uri` and `warehouse`, and `name`.
        table: The table, with its namespace.
        snapshot_id: A snapshot of it; `None` for the newest. The recorded plan keeps it.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples, or a list of such lists, of which one must hold.
        allow_empty: Whether a table without rows is a success.
    """

    piece: ClassVar[str] = "row group"

    catalog: dict[str, Any]
    table: str
    snapshot_id: int | None = None
    columns: list[str] | None = None
    filters: Filters = None
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong before the catalog is asked."""
        if found := iceberg.problems("source", self.table):
            raise ConfigError(found)

    @property
    def filtered(self) -> bool:
        """Return whether `filters` may leave out rows."""
        return bool(self.filters)

    def settings(self) -> Mapping[str, Any]:
        """Return what decides which rows there are. Where the table lies is not among it: the recorded plan knows its files."""
        return {"filters": self.filters, **({} if self.columns is None else {"columns": self.columns})}

    # ------------------------------------------------ the table

    @cached_property
    def _table(self) -> Any:
        """Return the table as it is when it is first asked for."""
        with iceberg.opened_catalog("source", self.catalog, must_exist=True) as catalog:
            return iceberg.load_table(catalog, "source", self.table)

    @cached_property
    def _snapshot(self) -> Any:
        """Return the snapshot that is read; `None` if the table has never had a row."""
        if self.snapshot_id is None:
            return self._table.current_snapshot()
        found = self._table.snapshot_by_id(self.snapshot_id)
        if found is None:
            there = [str(each.snapshot_id) for each in reversed(self._table.snapshots())]
            raise ConfigError(
                f"source.snapshot_id={self.snapshot_id}: {self.table} has no such snapshot; has it expired? "
                f"There is {named(there) if there else 'none'}"
            )
        return found

    @cached_property
    def _scan(self) -> Any:
        """Return the scan, by filters that may leave out whole files. The newest snapshot has the table's schema of today."""
        scan = self._table.scan(snapshot_id=self.snapshot_id)
        return scan.filter(_row_filter(self.filters, scan.projection())) if self.filters else scan

    @cached_property
    def _live(self) -> list[Any]:
        """Return the data files of the snapshot that may have rows which pass the filters."""
        return [] if self._snapshot is None else self._planned(self._scan)

    def _planned(self, scan: Any) -> list[Any]:
        """Return the files of a scan, sorted by path."""
        try:
            tasks = retrying(lambda: list(scan.plan_files()), within=LOOKING_SECONDS)
        except FileNotFoundError as error:
            raise self._wrong(f"files of its snapshot are gone: {first_line(error)}") from error
        except ValueError as error:
            if "equality deletes" not in str(error):
                raise
            snapshot = self._snapshot.snapshot_id
            raise self._wrong(
                f"snapshot {snapshot} has equality deletes, which pyiceberg cannot apply; {COMPACT}"
            ) from error
        if others := [task.file.file_path for task in tasks if task.file.file_format.name != "PARQUET"]:
            raise self._wrong(f"only Parquet files are read, and these are others: {named(others)}")
        return sorted(tasks, key=lambda task: str(task.file.file_path).encode())

    def _told(self, what: str) -> str:
        return f"source.table={self.table}: {what}"

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(self._told(what))

    # ------------------------------------------------ inputs

    def inputs(self) -> list[Input]:
        """List the data files of the snapshot, without those that no filter lets pass.

        Raises:
            ConfigError: There is none, and `allow_empty` is false; or the table cannot be read.
        """
        found = [self._input(task) for task in self._live]
        if not found and not self.allow_empty:
            passing = f" that pass source.filters={self.filters}" if self.filters else ""
            raise self._wrong(f"there are no rows{passing} (source.allow_empty=true makes that a success)")
        return found

    def inputs_since(self, planned: Collection[Input]) -> list[Input]:
        """List the planned inputs as they were planned, and what has been appended since the snapshot that was planned last.

        Files that somebody has written to replace several by one hold rows that are planned already: they are not listed.
        """
        ours = [each for each in planned if (pinned := Pinned.of(each.version)) and pinned.table == self._uuid]
        last = Pinned.of(ours[-1].version) if ours else None
        return self.inputs() if last is None else [*ours, *self._appended(last.snapshot)]

    @property
    def _uuid(self) -> str:
        return str(self._table.metadata.table_uuid)

    def _input(self, task: Any) -> Input:
        deletes = sorted([each.file_format.name.lower(), each.file_path] for each in task.delete_files)
        if wrong := [path for kind, path in deletes if kind not in {"parquet", "puffin"}]:
            raise self._wrong(f"delete files of this format are not read: {named(wrong)}; {COMPACT}")
        schema = self._scan.projection()
        constants = _constants(task.file, self._table.specs()[task.file.spec_id], schema)
        pinned = Pinned(self._uuid, self._snapshot.snapshot_id, schema.schema_id, deletes, constants)
        return Input(task.file.file_path, task.file.file_size_in_bytes, pinned.text())

    def _appended(self, since: int) -> list[Input]:
        """List what is new after a snapshot. What cannot be appended is an input that `inspect` refuses, so that nothing passes unseen."""
        steps, known = _steps(self._table.metadata, self._snapshot, since)
        if not known:
            why = (
                f"snapshot {since}, which was planned last, is not among those that led to the one that is read now, so nobody can tell "
                f"which rows came after it. Has it expired? Keep snapshots for longer than there is between two runs; {START_OVER}"
            )
            return [_refused(f"{self.table} after snapshot {since}", self._told(why))]
        why = (
            f"has overwritten rows since {since} was planned, and append takes only rows that were added; {START_OVER}"
        )
        refused = [
            _refused(f"{self.table} snapshot {step.snapshot_id}", self._told(f"snapshot {step.snapshot_id} {why}"))
            for step in steps
            if _operation(step) not in {"append", "replace", "delete"}
        ]
        return [*refused, *map(self._input, self._added(since, steps))]

    def _added(self, since: int, steps: Sequence[Any]) -> list[Any]:
        """Return the files that these snapshots appended, as the newest has them.

        One that is gone again was deleted with its rows, or its rows are in a file that replaced several: then it is read itself.
        """
        if not any(_operation(step) == "append" for step in steps):
            return []
        scan = self._table.incremental_append_scan(
            row_filter=self._scan.row_filter,
            from_snapshot_id_exclusive=since,
            to_snapshot_id_inclusive=self._snapshot.snapshot_id,
        )
        live = {task.file.file_path: task for task in self._live}
        replaced = any(_operation(step) == "replace" for step in steps)
        added = self._planned(scan)
        return [live.get(task.file.file_path, task) for task in added if replaced or task.file.file_path in live]

    # ------------------------------------------------ fragments

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Read every data file's footer, several at a time.

        Raises:
            ConfigError: Files cannot be read, a column is missing, or rows were overwritten since a plan.
        """
        found = list(map_in_threads(self._fragments, inputs))
        if problems := [each for each in found if isinstance(each, str)]:
            raise ConfigError(first_problems(problems))
        schema = self._schema(needed) if inputs else None
        return [fragment for each in found for fragment in each if isinstance(fragment, Fragment)], schema

    def _fragments(self, file: Input) -> list[Fragment] | str:
        import pyarrow.parquet as pq

        pinned = Pinned.of(file.version)
        if pinned is None:
            return file.version
        try:
            with self._storage.open(file.name) as handle:
                footer = retrying(lambda: pq.read_metadata(handle), within=LOOKING_SECONDS)
        except Exception as error:
            gone = isinstance(error, FileNotFoundError)
            problem = self._told(f"{file.name} {'' if gone else 'cannot be read: '}{first_line(error)}")
            if is_transient(error):
                raise Incomplete(problem) from error
            return problem
        groups = row_groups(file, [footer.row_group(i).num_rows for i in range(footer.num_row_groups)])
        return [replace(each, rows=None) for each in groups] if pinned.deletes else list(groups)

    def _schema(self, needed: Mapping[str, str] | None) -> pa.Schema:
        """Return the columns that are offered, or those of them that are needed."""
        import pyarrow as pa

        whole = arrow_schema(self._scan.projection())
        names = offered(whole.names, self.columns, self.filters, needed)
        filter_expression(self.filters, whole)
        return pa.schema([whole.field(name) for name in names])

    def divide(self, fragment: Fragment, most_bytes: int | None, most_rows: int | None) -> Sequence[Fragment]:  # noqa: ARG002
        """Return a row group in pieces of so many rows; whole where rows of it were deleted."""
        return list(pieces_of_rows(fragment, most_rows))

    def how_to_split(self, fragment: Fragment) -> str:  # noqa: ARG002
        """Return what a person can do so that several workers share the work of this fragment."""
        return "bytes do not divide a row group, rows do: shard_rows=N divides it into shards of N rows"

    def reader(self, schema: pa.Schema) -> IcebergReader:
        """Return what workers read with. It does not ask the catalog."""
        return IcebergReader(self._storage, packed(self._table.metadata), schema, self.filters)

    @property
    def _storage(self) -> Storage:
        return Storage(json.dumps(dict(self._table.io.properties), default=str), self._table.location())


def _operation(snapshot: Any) -> str:
    return str(snapshot.summary.operation.value) if snapshot.summary else "unknown"


def _refused(name: str, why: str) -> Input:
    """Return an input that stands for a change which cannot be appended; its version is the reason."""
    return Input(name, 1, why)  # of 0 bytes it would count as without rows


def _steps(metadata: Any, newest: Any, since: int) -> tuple[list[Any], bool]:
    """Return the snapshots after one of them up to the newest, latest first, and whether they lead back to that one."""
    steps, step = [], newest
    while step is not None and step.snapshot_id != since:
        steps.append(step)
        parent = step.parent_snapshot_id
        step = None if parent is None else metadata.snapshot_by_id(parent)
    return steps, step is not None or bool(steps and steps[-1].parent_snapshot_id == since)


def _constants(file: Any, spec: Any, schema: Any) -> dict[str, Any]:
    """Return the values that a file has in the columns that the table is partitioned by as they are, by field id.

    Iceberg lets a file be written without these columns, as Hive does.
    """
    from pyiceberg.conversions import to_json
    from pyiceberg.transforms import IdentityTransform

    fields = [
        (i, each.source_id) for i, each in enumerate(spec.fields) if isinstance(each.transform, IdentityTransform)
    ]
    known = [(source, file.partition[i]) for i, source in fields if source in schema.field_ids]
    return {str(source): to_json(schema.find_type(source), value) for source, value in known if value is not None}


def _row_filter(filters: Filters, schema: Any) -> Any:
    """Return a filter of pyiceberg's that lets every row pass which the exact filters let pass."""
    from pyiceberg.expressions import AlwaysTrue, And, Or

    filter_expression(filters, arrow_schema(schema))  # which says what is wrong with them
    any_of = [list(_bound(terms, schema)) for terms in decidable(filters, arrow_schema(schema))]
    if not any_of or not all(any_of):
        return AlwaysTrue()
    every = [And(*terms) if len(terms) > 1 else terms[0] for terms in any_of]
    return Or(*every) if len(every) > 1 else every[0]


def _bound(terms: Sequence[tuple[str, str, Any]], schema: Any) -> Iterator[Any]:
    """Yield those of the terms that pyiceberg can hold against its statistics."""
    from pyiceberg import expressions as ex
    from pyiceberg.expressions.visitors import bind

    kinds = {"=": ex.EqualTo, "==": ex.EqualTo, "!=": ex.NotEqualTo, "<": ex.LessThan, "<=": ex.LessThanOrEqual,
             ">": ex.GreaterThan, ">=": ex.GreaterThanOrEqual, "in": ex.In, "not in": ex.NotIn}  # fmt: skip
    for name, operator, value in terms:
        try:
            term = kinds[operator](name, value)
            bind(schema, term, case_sensitive=True)
        except (ValueError, TypeError):
            continue  # such as a fraction that is compared with whole numbers: rows are filtered exactly afterwards
        yield term
