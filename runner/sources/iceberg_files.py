"""Reads the data files of an Iceberg table in workers: columns by field id, without the rows that delete files name."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.errors import ConfigError, RunnerError
from runner.sources.numbered import NUMBER, Tables, filtered, rows_of
from runner.sources.parquet import read_groups
from runner.storage.iceberg import arrow_schema
from runner.storage.locations import is_local
from runner.storage.transience import is_transient
from runner.types import Filters, Fragment
from runner.words.plain import first_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PUFFIN = "puffin"
GONE = "is gone; files are deleted when their snapshots expire. sink.save_mode=overwrite starts over with what is there now"
KEPT_DELETES = 16  # of data files, whose deleted rows a process remembers


class Pinned(NamedTuple):
    """How a data file is read as it was in one snapshot. It is the version of the input, so that the recorded plan keeps it.

    Data files never change, and a delete file that comes later belongs to a later snapshot. So this, and the file itself, is all that a
    worker needs: a run that is resumed reads what was planned, whatever has become of the table since.

    Attributes:
        table: The table's UUID.
        snapshot: The snapshot's id.
        schema: Id of the schema that this snapshot has.
        deletes: Format and path of each file that names deleted rows of the data file.
        constants: Values of partition columns, by field id, for a file that was written without them.
    """

    table: str
    snapshot: int
    schema: int
    deletes: Sequence[Sequence[str]]
    constants: Mapping[str, Any]

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(self)

    @classmethod
    def of(cls, version: str) -> Pinned | None:
        """Return what `text` returned as it was; `None` for the version of another kind of input."""
        try:
            found = json.loads(version)
        except ValueError:
            return None
        return cls(*found) if isinstance(found, list) and len(found) == len(cls._fields) else None


class Facts(NamedTuple):
    """What workers need to know of a table.

    Attributes:
        format_version: Of Iceberg.
        mapping: Field ids by name, for files that have none.
        schemas: By their ids.
    """

    format_version: int
    mapping: Any
    schemas: Mapping[int, Any]


def packed(metadata: Any) -> bytes:
    """Return the facts of a table as few bytes, since they travel with every call. Its many schemas are nearly the same."""
    mapping = metadata.name_mapping()
    schemas = [each.model_dump_json() for each in metadata.schemas]
    names = None if mapping is None else mapping.model_dump_json()
    return zlib.compress(json.dumps([metadata.format_version, names, schemas]).encode())


@lru_cache(maxsize=8)
def facts_of(content: bytes) -> Facts:
    """Return the facts that were packed."""
    from pyiceberg.schema import Schema
    from pyiceberg.table.name_mapping import parse_mapping_from_json

    version, mapping, schemas = json.loads(zlib.decompress(content))
    found = [Schema.model_validate_json(each) for each in schemas]
    return Facts(version, mapping and parse_mapping_from_json(mapping), {each.schema_id: each for each in found})


@dataclass(frozen=True)
class Storage:
    """How workers open the files of a table.

    Attributes:
        properties: pyiceberg's, as JSON. They may hold credentials.
        location: Of the table.
    """

    properties: str = field(repr=False)
    location: str

    def open(self, path: str) -> contextlib.AbstractContextManager[Any]:
        """Open a file for reading at several places.

        Raises:
            FileNotFoundError: It is gone, as files are whose snapshot has expired.
        """
        try:
            opened: contextlib.AbstractContextManager[Any] = _file_io(self).new_input(path).open()
            return opened
        except FileNotFoundError as error:
            raise FileNotFoundError(GONE) from error


@lru_cache(maxsize=8)
def _file_io(storage: Storage) -> Any:
    """Return pyiceberg's access to files. It is kept, since it makes its connections when it is first used."""
    from pyiceberg.io import load_file_io

    return load_file_io(json.loads(storage.properties), storage.location)


@dataclass(frozen=True)
class IcebergReader:
    """Reads row groups of data files.

    Attributes:
        storage: Opens them.
        facts: Of the table, packed.
        schema: Names, order and types of all columns that the source offers.
        filters: Row filters.
    """

    storage: Storage
    facts: bytes = field(repr=False)
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
        whole = arrow_schema(_pinned(fragment, self.facts)[1])
        return rows_of(self._numbered(fragment), numbers, self.schema, whole)

    def _numbered(self, fragment: Fragment) -> Tables:
        return partial(self._tables, fragment)

    def _tables(self, fragment: Fragment, wanted: pa.Schema) -> Iterator[pa.Table]:
        """Yield tables with these columns, and each row's number. What goes wrong is told for people."""
        try:
            yield from self._live(fragment, wanted)
        except (RunnerError, PermissionError, FileNotFoundError):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            raise ConfigError(first_line(error)) from error

    def _live(self, fragment: Fragment, wanted: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows that no delete file names."""
        import numpy as np
        import pyarrow as pa

        pinned, schema, facts = _pinned(fragment, self.facts)
        deleted = _deleted_rows(self.storage, fragment.input.name, _frozen(pinned.deletes)) if pinned.deletes else None
        for first, table in _projected(self.storage, fragment, schema.select(*wanted.names), pinned, facts):
            columns = [table.column(column.name).cast(column.type) for column in wanted]
            numbers = np.arange(first, first + table.num_rows)
            numbered = pa.table([*columns, pa.array(numbers)], schema=wanted.append(pa.field(NUMBER, pa.int64())))
            yield numbered if deleted is None else numbered.filter(pa.array(~np.isin(numbers, deleted)))


def _pinned(fragment: Fragment, packed_facts: bytes) -> tuple[Pinned, Any, Facts]:
    pinned, facts = Pinned.of(fragment.input.version), facts_of(packed_facts)
    if pinned is None or pinned.schema not in facts.schemas:
        raise ConfigError(
            "the table has not the schema any more that this was planned with; sink.save_mode=overwrite starts over"
        )
    return pinned, facts.schemas[pinned.schema], facts


def _frozen(deletes: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((kind, path) for kind, path in deletes)


def _projected(
    storage: Storage, fragment: Fragment, wanted: Any, pinned: Pinned, facts: Facts
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the fragment's rows with the columns of an Iceberg schema, each batch with the number of its first row.

    A column is found by its field id, whatever its name and its type were when the file was written. `_to_requested_schema` is pyiceberg's
    own: it knows the rules for promoted types, nested fields, defaults and partition columns that the file does not have.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyiceberg.io.pyarrow import _to_requested_schema, pyarrow_to_schema
    from pyiceberg.schema import prune_columns

    coarse = facts.format_version <= 2  # these versions have no nanoseconds
    with storage.open(fragment.input.name) as handle:
        footer = pq.read_metadata(handle)
        stored = footer.schema.to_arrow_schema()
        file = pyarrow_to_schema(
            stored, facts.mapping, downcast_ns_timestamp_to_us=coarse, format_version=facts.format_version
        )
        there = prune_columns(file, _leaves(wanted), select_full_types=False)
        columns = pa.schema([stored.field(column.name) for column in there.columns])
        absent = _constants(wanted, pinned, file)
        for first, table in read_groups(handle, footer, fragment, columns, ahead=not is_local(fragment.input.name)):
            for batch in table.to_batches():
                yield (
                    first,
                    _to_requested_schema(
                        wanted, there, batch, coarse, projected_missing_fields=absent, allow_timestamp_tz_mismatch=True
                    ),
                )
                first += batch.num_rows


def _leaves(schema: Any) -> set[int]:
    """Return the ids of a schema's fields, without those of lists and maps themselves: their elements are named."""
    from pyiceberg.types import ListType, MapType

    return {each for each in schema.field_ids if not isinstance(schema.find_type(each), ListType | MapType)}


def _constants(wanted: Any, pinned: Pinned, file: Any) -> dict[int, Any]:
    """Return the values of the partition columns that the file does not have, by field id."""
    from pyiceberg.conversions import from_json

    absent = {int(name): value for name, value in pinned.constants.items() if int(name) not in file.field_ids}
    return {each: from_json(wanted.find_type(each), absent[each]) for each in absent if each in wanted.field_ids}


@lru_cache(maxsize=KEPT_DELETES)
def _deleted_rows(storage: Storage, path: str, deletes: tuple[tuple[str, str], ...]) -> np.ndarray[Any, Any]:
    """Return the numbers of the deleted rows of a data file."""
    import numpy as np

    found = [(_of_vector if kind == PUFFIN else _of_positions)(storage, each, path) for kind, each in deletes]
    return np.unique(np.concatenate(found))


def _of_positions(storage: Storage, deletes: str, path: str) -> np.ndarray[Any, Any]:
    """Return what a file of positions says of a data file. It is sorted by path: only the row groups that name this one are read."""
    import numpy as np
    import pyarrow.parquet as pq

    with storage.open(deletes) as handle:
        rows = pq.read_table(handle, columns=["pos"], filters=[("file_path", "==", path)]).column("pos")
        return np.asarray(rows, np.int64)


def _of_vector(storage: Storage, deletes: str, path: str) -> np.ndarray[Any, Any]:
    """Return what the deletion vectors of a Puffin file say of a data file."""
    import numpy as np
    from pyiceberg.table.deletion_vector import deletion_vectors_from_puffin_file
    from pyiceberg.table.puffin import PuffinFile

    with storage.open(deletes) as handle:
        vectors = deletion_vectors_from_puffin_file(PuffinFile(bytes(handle.read())))
    found = [np.asarray(each.to_vector(), np.int64) for each in vectors if each.referenced_data_file == path]
    return np.concatenate([np.array([], np.int64), *found])
