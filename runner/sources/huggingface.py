"""The source `HuggingFace`: a dataset of the package `datasets`, from a folder or from the hub."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from runner.errors import ConfigError, Incomplete
from runner.sources.files import given
from runner.sources.filters import filter_columns, filter_expression
from runner.sources.schemas import refuse_missing
from runner.storage.locations import absolute, install
from runner.storage.transience import is_transient
from runner.types import Filters, Fragment, Input, Reader, Source
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

FRAGMENTS = 8192  # that a dataset is divided into; neighbours in a shard are joined
READ_ROWS = 65_536  # rows of a table
SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` writes beside the rows
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """Where a dataset is.

    Attributes:
        path: A folder, absolute, or a name on the hub.
        name: Of the dataset's configuration.
        split: As `datasets` spells it; `None` for the only one.
        revision: On the hub: a branch, a tag or a commit.
    """

    path: str
    name: str | None
    split: str | None
    revision: str | None

    @property
    def is_local(self) -> bool:
        """Return whether it is a folder of this machine."""
        return Path(self.path).is_absolute()

    def load(self) -> Any:
        """Return the `datasets.Dataset`, whose rows are mapped from the disk, not read into memory.

        Raises:
            ConfigError: There is none, or no such split.
            Incomplete: The hub cannot be reached.
        """
        import datasets

        datasets.disable_progress_bars()
        try:
            found = self._load()
        except Exception as error:
            message = f"source.path={self.path}: cannot be loaded as a dataset: {first_line(error)}"
            if is_transient(error):
                raise Incomplete(message) from error
            raise ConfigError(message) from error
        if isinstance(found, dict):
            found = self._split_of(found)
        return found if found._indices is None else found.flatten_indices()

    def _load(self) -> Any:
        import datasets

        if self.is_local and any(Path(self.path, name).exists() for name in SAVED):
            return datasets.load_from_disk(self.path)
        return datasets.load_dataset(self.path, self.name, split=self.split, revision=self.revision)

    def _split_of(self, splits: Mapping[str, Any]) -> Any:
        if self.split is None and len(splits) == 1:
            return next(iter(splits.values()))
        if self.split is not None and self.split in splits:
            return splits[self.split]
        raise ConfigError(
            f"source.split={self.split}: {self.path} has the splits {', '.join(splits)}; name one of them"
        )


@lru_cache(maxsize=4)
def _held(place: Place, version: str) -> Any:
    """Return a dataset that this process has loaded before, in this version.

    Raises:
        ConfigError: It has changed since it was planned.
    """
    found = place.load()
    if _version(found) != version:
        raise ConfigError(
            "it changed since it was planned; sink.save_mode=overwrite starts over with what is there now"
        )
    return found


def _version(dataset: Any) -> str:
    """Return what changes when the rows do: a digest of them, or on the hub the commit.

    `datasets` keeps what it loads in a cache, in a folder that has the name of the commit, or of a digest of the local files.
    """
    kept = [Path(file["filename"]) for file in dataset.cache_files]
    return kept[0].parent.name if kept and not Path(kept[0].parent, SAVED[0]).exists() else str(dataset._fingerprint)


@dataclass(frozen=True)
class HuggingFace(Source):
    """The rows of one split of a dataset.

    Attributes:
        path: A folder of `save_to_disk`, any folder that `load_dataset` reads, or a name on the hub.
        name: Of the dataset's configuration, for one that has several.
        split: Such as `train` or `train[:10%]`; `None` for the only one.
        revision: A branch, a tag or a commit of the hub. `None`: the newest, which the first plan pins.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples.
    """

    piece: ClassVar[str] = "row"

    path: str
    name: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: list[str] | None = None
    filters: Filters = None

    def __post_init__(self) -> None:
        """Refuse a machine that lacks the package, and what is neither a folder nor a name."""
        if find_spec("datasets") is None:
            raise ConfigError(f"source=huggingface: needs datasets: {install('huggingface')}")
        if "://" in self.path:
            raise ConfigError(
                f"source.path={self.path}: expected a local folder or a name on the hub; source=arrow reads the files of save_to_disk "
                "from any storage (data-*.arrow)"
            )

    @property
    def filtered(self) -> bool:
        """Return whether `filters` may leave out rows."""
        return bool(self.filters)

    def settings(self) -> Mapping[str, Any]:
        """Return what decides which rows there are. The version of the input says which revision they are of."""
        return given(self, {"path", "revision"})

    @property
    def _place(self) -> Place:
        path = absolute(self.path) if Path(self.path).expanduser().exists() else self.path
        return Place(path, self.name, self.split, self.revision)

    @property
    def _input_name(self) -> str:
        place = self._place
        inside = "/".join([*filter(None, [self.name]), self.split or ""]).rstrip("/")
        return f"{'' if place.is_local else 'hf://datasets/'}{place.path}{'#' if inside else ''}{inside}"

    def inputs(self) -> list[Input]:
        """Return the split, as it is now."""
        found = self._place.load()
        return [Input(self._input_name, found.data.nbytes, _version(found))]

    def inputs_since(self, planned: Collection[Input]) -> list[Input]:
        """Return the split at the commit that was planned, unless the config names a revision."""
        pinned = [each for each in planned if each.name == self._input_name and not self._place.is_local]
        return pinned if pinned and self.revision is None else self.inputs()

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Return ranges of rows, of even length, and the types of the columns."""
        import pyarrow as pa

        found = [(each, _held(pinned(self._place, each), each.version)) for each in inputs]
        fragments = [fragment for each, dataset in found for fragment in _ranges(each, len(dataset))]
        if not found:
            return fragments, None
        schema = _plain_schema(found[0][1].data.table.schema)
        asked = {**dict.fromkeys(filter_columns(self.filters), "source.filters"), **(needed or {})}
        offered = schema.names if self.columns is None else self.columns
        refuse_missing({**dict.fromkeys(self.columns or (), "source.columns")}, schema.names)
        refuse_missing(asked, offered)
        schema = pa.schema([schema.field(name) for name in (offered if needed is None or self.columns else asked)])
        filter_expression(self.filters, schema)
        return fragments, schema

    def reader(self, schema: pa.Schema) -> Reader:
        """Return what workers read with."""
        return DatasetReader(self._place, schema, self.filters)

    def how_to_split(self, fragment: Fragment) -> str:  # noqa: ARG002
        """Return what a person can do so that several workers share a shard."""
        return "give a smaller shard_bytes"


def pinned(place: Place, planned: Input) -> Place:
    """Return the place at the commit that was planned."""
    return (
        replace(place, revision=planned.version) if COMMIT.fullmatch(planned.version) and not place.is_local else place
    )


def _ranges(source: Input, rows: int) -> Iterator[Fragment]:
    step = max(1, -(-rows // FRAGMENTS))
    for begin in range(0, rows, step):
        end = min(rows, begin + step)
        size = source.size * end // rows - source.size * begin // rows
        yield Fragment(source, size, end - begin, begin, (begin, end), joinable=True)


@dataclass(frozen=True)
class DatasetReader:
    """Reads ranges of rows, in workers.

    Attributes:
        place: Where the dataset is.
        schema: Names, order and types of the columns that the source offers.
        filters: Which rows are left out.
    """

    place: Place
    schema: pa.Schema
    filters: Filters

    def read(self, fragment: Fragment, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows that pass the filters."""
        names = self.schema.names if columns is None else list(columns)
        for _, table in self._tables(fragment, [*names, *filter_columns(self.filters)]):
            passed = self._filtered(table)
            if passed.num_rows:
                yield passed.select(names)

    def positions(self, fragment: Fragment) -> Iterator[int]:
        """Yield the number within the split of each row that `read` yields."""
        import numpy as np
        import pyarrow as pa

        for first, table in self._tables(fragment, filter_columns(self.filters) or self.schema.names[:1]):
            numbers = pa.array(np.arange(first, first + table.num_rows))
            yield from self._filtered(table.append_column("", numbers)).column("").to_pylist()

    def whole_rows(self, fragment: Fragment, numbers: Sequence[int]) -> pa.Table:
        """Return the rows of these numbers with all columns of the dataset."""
        return _plain(self._stored(fragment).take(list(numbers)))

    def _tables(self, fragment: Fragment, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the rows of a range, each table with the number of its first row."""
        begin, end = fragment.span or (0, 0)
        stored = self._stored(fragment).select(list(dict.fromkeys(names)))
        for first in range(begin, end, READ_ROWS):
            yield first, _plain(stored.slice(first, min(READ_ROWS, end - first)))

    def _stored(self, fragment: Fragment) -> pa.Table:
        return _held(pinned(self.place, fragment.input), fragment.input.version).data.table

    def _filtered(self, table: pa.Table) -> pa.Table:
        keep = filter_expression(self.filters, self.schema)
        return table if keep is None else table.filter(keep)


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return Arrow's own types instead of those that only `datasets` knows, such as that of a matrix."""
    import pyarrow as pa

    return pa.schema([(column.name, getattr(column.type, "storage_type", column.type)) for column in schema])


def _plain(table: pa.Table) -> pa.Table:
    import pyarrow as pa

    schema = _plain_schema(table.schema)
    columns = [
        pa.chunked_array([chunk.storage for chunk in each.chunks], kind) if each.type != kind else each
        for each, kind in zip(table.columns, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)
