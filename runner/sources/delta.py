"""The source `Delta`: the rows of one version of a Delta table, and with `append` those that were added since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from runner.errors import ConfigError, Incomplete
from runner.sources.delta_files import GONE, DeltaReader, Pinned, deleted_rows, file_uri
from runner.sources.delta_log import Added, NotAppended, appended, passing
from runner.sources.filters import filter_expression
from runner.sources.numbered import offered
from runner.sources.parquet import Parquet
from runner.sources.schemas import first_problems
from runner.storage import delta
from runner.storage.folder import Folder
from runner.storage.locations import absolute
from runner.storage.parallel import map_in_threads
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.types import Filters, Fragment, Input, Source
from runner.words.plain import first_line, named

if TYPE_CHECKING:
    import pyarrow as pa

FEATURES = frozenset(
    {"deletionVectors", "columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening"}
    | {
        "typeWidening-preview",
        "variantType",
        "variantType-preview",
        "variantShredding-preview",
    }  # such columns are refused
)
PHYSICAL = "delta.columnMapping.physicalName"
NEW = "the table may be newer than this program: "


@dataclass(frozen=True)
class Delta(Source):
    """A source that reads a table. An input is a data file, as it is in one version; a fragment is a row group of it.

    Attributes:
        path: Root of the table, a folder or URI.
        version: Of the table; `None` for the newest. The recorded plan keeps it.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples, or a list of such lists, of which one must hold.
        storage_options: fsspec's options, which are translated for the table's log.
        allow_empty: Whether a table without rows is a success.
    """

    piece: ClassVar[str] = "row group"

    path: str
    version: int | None = None
    columns: list[str] | None = None
    filters: Filters = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse what can be seen to be wrong without the table.

        Raises:
            ConfigError: The package is missing, or a storage option cannot be translated.
        """
        if missing := delta.missing_package():
            raise ConfigError(f"source=delta {missing}")
        _ = self._log_options

    @property
    def filtered(self) -> bool:
        """Return whether `filters` may leave out rows."""
        return bool(self.filters)

    def settings(self) -> Mapping[str, Any]:
        """Return what decides which rows there are. Where the table lies is not among it: the recorded plan knows its files."""
        return {"filters": self.filters, **({} if self.columns is None else {"columns": self.columns})}

    # ------------------------------------------------ the table

    @cached_property
    def _root(self) -> str:
        return absolute(self.path)

    @cached_property
    def _log_options(self) -> dict[str, str]:
        return delta.log_options(self._root, self.storage_options, "source.storage_options")

    @cached_property
    def _table(self) -> Any:
        """Return the table at the version that is read.

        Raises:
            ConfigError: There is none, or it asks for more than this program can do.
        """
        from deltalake.exceptions import DeltaError, DeltaProtocolError

        try:
            table = delta.opened(self._root, self._log_options, self.version)
        except (DeltaError, DeltaProtocolError) as error:
            raise self._wrong(self._why(error)) from error
        if table is None:
            raise self._wrong(
                "is no Delta table: there is no log (_delta_log) below it; source=parquet reads folders of files"
            )
        if lacking := sorted(set(table.protocol().reader_features or ()) - FEATURES):
            raise self._wrong(f"{NEW}it asks its readers for {', '.join(lacking)}")
        return table

    def _why(self, error: Exception) -> str:
        text = first_line(error)
        if self.version is None:
            return f"cannot be read; {NEW}{text}"
        newest = delta.opened(self._root, self._log_options)
        there = f"the newest is {newest.version()}" if newest is not None else "there is none"
        return f"source.version={self.version} is not there ({there}); it never was, or its log was cleaned up: {text}"

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(f"source.path={self.path}: {what}")

    @cached_property
    def _stored(self) -> dict[str, str]:
        """Return the names that columns have in the files, where these are others (column mapping)."""
        fields = {
            each.name: str((each.metadata or {}).get(PHYSICAL, each.name)) for each in self._table.schema().fields
        }
        return {name: stored for name, stored in fields.items() if stored != name}

    @cached_property
    def _whole(self) -> pa.Schema:
        """Return all columns of the table."""
        import pyarrow as pa

        there = delta.arrow_schema(self._table.schema())
        return pa.schema([pa.field(column.name, column.type) for column in there])

    @cached_property
    def _listed(self) -> list[dict[str, Any]]:
        """Return what the log says of each data file of the version."""
        import pyarrow as pa

        found: list[dict[str, Any]] = pa.table(self._table.get_add_actions()).to_pylist()
        return found

    @cached_property
    def _live(self) -> list[Added]:
        """Return the data files of the version that may have rows which pass the filters, sorted by path."""
        filter_expression(self.filters, self._whole)  # which says what is wrong with them
        wanted = passing(self._listed, self._whole, self._stored, self.filters)
        found = [Added.listed(each, self._whole) for each in wanted]
        return sorted(found, key=lambda each: each.path.encode())

    @cached_property
    def _with_deletes(self) -> Collection[str]:
        """Return the files of which a deletion vector names rows."""
        asked = set(self._table.protocol().reader_features or ())
        if "deletionVectors" not in asked:
            return ()
        return deleted_rows(self._root, json.dumps(self._log_options, sort_keys=True), self._table.version())

    # ------------------------------------------------ inputs

    def inputs(self) -> list[Input]:
        """List the data files of the version, without those that no filter lets pass.

        Raises:
            ConfigError: There is none, and `allow_empty` is false; or the table cannot be read.
        """
        found = [self._input(each) for each in self._live]
        if not found and not self.allow_empty:
            passing = f" that pass source.filters={self.filters}" if self.filters else ""
            raise self._wrong(f"there are no rows{passing} (source.allow_empty=true makes that a success)")
        return found

    def _input(self, file: Added) -> Input:
        name = file_uri(self._root, file.path)
        pinned = Pinned(self._table.metadata().id, self._table.version(), file.partition, name in self._with_deletes)
        return Input(name, file.bytes, pinned.text())

    def inputs_since(self, planned: Collection[Input]) -> list[Input]:
        """List the planned inputs as they were planned, and what was added since the version that was planned last.

        Files that somebody has written to replace several by one hold rows that are planned already: they are not listed.
        """
        pins = [(each, pinned) for each in planned if (pinned := Pinned.of(each.version))]
        ours = [(each, pinned) for each, pinned in pins if pinned.table == self._table.metadata().id]
        if not ours:
            return self.inputs()
        since = max(pinned.version for _, pinned in ours)
        return [*(each for each, _ in ours), *self._added(since)]

    def _added(self, since: int) -> list[Input]:
        """List what is new after a version. What cannot be appended is an input that `inspect` refuses, so that nothing passes unseen."""
        try:
            new = appended(
                Folder(self._root, self.storage_options), since, self._table.version(), self._partition_names
            )
        except NotAppended as why:
            return [Input(f"{self._root} after version {since}", 1, f"source.path={self.path}: {why}")]
        live = {each.path: each for each in self._live}
        pruned = {each["path"] for each in self._listed} - live.keys()
        return [self._input(live.get(path, file)) for path, file in sorted(new.items()) if path not in pruned]

    @property
    def _partition_names(self) -> dict[str, str]:
        """Return the names of the partition columns by those that the log has."""
        return {self._stored.get(name, name): name for name in self._table.metadata().partition_columns}

    # ------------------------------------------------ fragments

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Read every data file's footer, several at a time.

        Raises:
            ConfigError: Files cannot be read, a column is missing, or rows were changed since a plan.
        """
        found = list(map_in_threads(self._fragments, inputs))
        if problems := [each for each in found if isinstance(each, str)]:
            raise ConfigError(first_problems(problems))
        schema = self._schema(needed) if inputs else None
        return [fragment for each in found for fragment in each if isinstance(fragment, Fragment)], schema

    def _fragments(self, file: Input) -> list[Fragment] | str:
        pinned = Pinned.of(file.version)
        if pinned is None:
            return file.version
        try:
            found = retrying(lambda: Parquet().inspect(file, self.storage_options), within=LOOKING_SECONDS).fragments
        except FileNotFoundError:
            return f"source.path={self.path}: version {pinned.version}: {file.name} {GONE}"
        except Exception as error:
            problem = f"source.path={self.path}: {file.name} cannot be read: {first_line(error)}"
            if is_transient(error):
                raise Incomplete(problem) from error
            return problem
        return [replace(each, rows=None) for each in found] if pinned.deletes else found

    def _schema(self, needed: Mapping[str, str] | None) -> pa.Schema:
        """Return the columns that are offered, or those of them that are needed."""
        import pyarrow as pa

        names = offered(self._whole.names, self.columns, self.filters, needed)
        if wrong := list(self._unreadable(names)):
            raise self._wrong(f"{named(wrong)}; source.columns can leave columns out")
        return pa.schema([self._whole.field(name) for name in names])

    def _unreadable(self, names: Sequence[str]) -> Iterator[str]:
        for each in self._table.schema().fields:
            text = each.to_json()
            if each.name in names and '"variant"' in text:
                yield f"column {each.name!r} is a variant, which is not read"
            if each.name in names and text.count(PHYSICAL) > 1:
                yield f"column {each.name!r} has fields with other names in the files (column mapping), which are not read"

    def how_to_split(self, fragment: Fragment) -> str:  # noqa: ARG002
        """Return what a person can do so that several workers share the work of this fragment."""
        return "a row group is not split; to use more workers, rewrite the table's files with smaller ones"

    def reader(self, schema: pa.Schema) -> DeltaReader:
        """Return what workers read with. It asks the log only for deletion vectors."""
        options = dict(self.storage_options)
        return DeltaReader(self._root, options, self._log_options, self._whole, self._stored, schema, self.filters)
