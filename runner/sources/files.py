"""The source `Files` and its arguments: files on any fsspec storage. Its `format` names what reads them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from runner.errors import ConfigError, Incomplete
from runner.sources import partitions
from runner.sources.casting import Cast
from runner.sources.csv_text import Csv
from runner.sources.filters import filter_columns, filter_expression
from runner.sources.formats import Arrow, FileContents, Format, FormatName, Orc, divide
from runner.sources.json_lines import Jsonl
from runner.sources.listing import is_parent_missing, list_entries, nearest_existing, without_duplicates
from runner.sources.opening import codec_of, open_stored
from runner.sources.parquet import Parquet
from runner.sources.pictures import Colours, Images
from runner.sources.reader import FilesReader, skip_hint
from runner.sources.schemas import SharedSchema, first_problems
from runner.sources.signature import HEAD, OWN, hint
from runner.sources.text_lines import Text
from runner.sources.whole_files import Binary
from runner.storage.locations import absolute
from runner.storage.parallel import map_in_threads
from runner.storage.transience import LOOKING_SECONDS, is_transient, retrying
from runner.types import Filters, Fragment, Input, Source
from runner.words.plain import first_line

if TYPE_CHECKING:
    import pyarrow as pa

TYPED = frozenset({"parquet", "arrow", "orc"})  # a file says the type of each column
TEXT = frozenset({"csv", "jsonl"})  # an empty file is one without rows
OF_ANY_SIZE = frozenset({"text", "binary", "images"})  # what an empty file is, the format says
OF_FORMATS: Mapping[str, Sequence[str]] = {  # options that other formats know nothing of
    "delimiter": ["csv"],
    "column_types": ["csv", "jsonl", "parquet", "arrow", "orc"],
    "encoding": ["text"],
    "mode": ["images"],
    "size": ["images"],
}
NOT_VALUES = frozenset({"path", "format", "storage_options", "allow_empty"})  # see `Files.settings`
NOWHERE = "not even the folder above it is there; source.allow_empty=true accepts an empty input, not a wrong place"
ALLOWED = "(source.allow_empty=true makes an empty input a success)"


@dataclass(frozen=True)
class Files(Source):
    """A source that reads files of one format.

    Attributes:
        path: A URI, a glob, a folder, or a list of them.
        format: How they are read. Parquet files are divided at row groups, and within these by `shard_rows`; CSV, JSON lines and
            text between any two rows; Arrow and ORC files at record batches and stripes.
        columns: Only these columns are offered; `None` for all.
        filters: pyarrow's list of tuples (`[["age", ">", 3]]`), or a list of such lists, of which one must hold.
        partitioning: `hive` turns `key=value` folders below the root into columns; `None` ignores them.
        storage_options: fsspec's options.
        allow_empty: Whether no file at all is a success.
        delimiter: Of CSV.
        column_types: Column to Arrow type name: where files differ, or where the first block of CSV or JSON lines misleads. Values are cast
            without loss.
        encoding: Of lines of text.
        mode: What each pixel of a picture becomes, by Pillow's names.
        size: Height and width that each picture is resized to; `None` leaves it as it is.
    """

    piece: ClassVar[str] = "row group"

    path: str | list[str]
    format: FormatName
    columns: list[str] | None = None
    filters: Filters = None
    partitioning: Literal["hive"] | None = "hive"
    storage_options: dict[str, Any] = field(default_factory=dict)
    allow_empty: bool = False
    delimiter: str = ","
    column_types: dict[str, str] = field(default_factory=dict)
    encoding: str = "utf-8"
    mode: Colours = "RGB"
    size: list[int] | None = None

    def __post_init__(self) -> None:
        """Refuse options that the format refuses, and those of other formats, which would have no effect.

        Raises:
            ConfigError: Naming each.
        """
        idle = [name for name in given(self) if self.format not in OF_FORMATS.get(name, {self.format})]
        if idle:
            raise ConfigError([self._problem_of_option(name) for name in idle])
        _ = self._format

    def _problem_of_option(self, name: str) -> str:
        formats = " or ".join(f"source={each}" for each in OF_FORMATS[name])
        return f"source.{name}: has no effect with source={self.format}; leave it out, or choose {formats}"

    _tolerant: ClassVar[bool] = False

    def tolerant(self) -> Files:
        """Return the same source, except that a row of text that cannot be parsed does not make its file an error."""
        other = copy.copy(self)
        vars(other)["_tolerant"] = True
        return other

    @property
    def filtered(self) -> bool:
        """Return whether `filters` may leave out rows."""
        return bool(self.filters)

    def settings(self) -> Mapping[str, Any]:
        """Return the arguments that decide which rows there are and what they hold, without those at their default.

        Where the files are and how they are reached is not among them: the recorded plan lists the files. Nor is their format: a file
        can be read in one format only.
        """
        return {"filters": self.filters, **given(self, NOT_VALUES)}

    def inputs(self) -> list[Input]:
        """List all files in input order, without those whose partition no filter lets pass.

        Raises:
            ConfigError: There is no file, and `allow_empty` is false.
        """
        entries = list_entries(self._paths, self.storage_options)
        idle = [path for path, found in zip(self._paths, entries, strict=True) if not found]
        if problems := [each for each in map(self._problem_without_files, idle) if each]:
            raise ConfigError(first_problems(problems))
        listed = found = without_duplicates(entries)
        vars(self)["_partition_types"] = self._types_among(listed)
        if self.partitioning and self.filters:
            found = partitions.prune(listed, self._partition_types, self.filters)
        if not found and not self.allow_empty:
            raise ConfigError(self._problem_without_inputs(len(listed)))
        return found

    @cached_property
    def _partition_types(self) -> dict[str, pa.DataType]:
        """Return the types of the partition keys. `inputs` sets them for `inspect`, so that both use the same; no listing is kept."""
        return self._types_among(without_duplicates(list_entries(self._paths, self.storage_options)))

    def _types_among(self, listed: Sequence[Input]) -> dict[str, pa.DataType]:
        return partitions.column_types(file.folder for file in listed) if self.partitioning else {}

    @property
    def _paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)

    def _problem_without_inputs(self, listed: int) -> str:
        paths = self._paths
        if not paths:
            return f"source.path=[]: expected at least one path {ALLOWED}"
        shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        return f"source.filters={self.filters}: exclude all {listed} files of source.path={shown} {ALLOWED}"

    def _problem_without_files(self, path: str) -> str:
        """Return what is wrong with an entry that names no file; that is a problem even if other entries name some."""
        if self.allow_empty:
            return f"source.path={path}: {NOWHERE}" if is_parent_missing(path, self.storage_options) else ""
        there = nearest_existing(path, self.storage_options)
        hint = f"; {there} exists, what should be below it does not" if there and there != path else ""
        if there and there == absolute(path):
            hint = "; the folder holds no file, or only names that begin with _ or ."
        return f"source.path={path}: no files match{hint} {ALLOWED}"

    def inspect(
        self, inputs: Sequence[Input], needed: Mapping[str, str] | None = None
    ) -> tuple[list[Fragment], pa.Schema | None]:
        """Read every file's footer (or first block), several files at a time.

        Args:
            inputs: The files.
            needed: Column to the config key that asks for it; `None` if every column is read.

        Returns:
            The fragments of all files in order, and the schema that they share; `None` if no file has one.

        Raises:
            ConfigError: Files cannot be read, lack a needed column, or have different schemas; the message says which and how.
        """
        fragments: list[Fragment] = []
        shared = SharedSchema(self._offered(needed), inferred=self.format in TEXT, keys=self.format == "jsonl")
        for file, contents in zip(inputs, map_in_threads(self._inspect_file, inputs), strict=True):
            if isinstance(contents, str):
                shared.problems.append(contents)
                continue
            fragments += contents.fragments
            if contents.schema is not None:
                shared.add(file.name, contents.schema, contents.unusable)
        if self.format != "jsonl":  # in JSON, a key that the first block lacks may still come
            shared.expect(dict.fromkeys(self.column_types, "source.column_types"))
        schema = shared.result()
        if schema is not None:
            filter_expression(
                self.filters, schema
            )  # so that a filter that does not fit the data is an error now, not in a worker
        return fragments, schema

    def _offered(self, needed: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Return the columns that must exist, each with the config key that asks for it; `None` for whichever exist."""
        asked = {**dict.fromkeys(filter_columns(self.filters), "source.filters"), **(needed or {})}
        if self.columns is None:
            return None if needed is None else asked
        offered = dict.fromkeys(self.columns, "source.columns")
        if hidden := [
            f"{key}: {name!r} is not among source.columns={self.columns}"
            for name, key in asked.items()
            if name not in offered
        ]:
            raise ConfigError(hidden)
        return offered if needed is None else asked

    def divide(self, fragment: Fragment, most_bytes: int | None, most_rows: int | None) -> list[Fragment]:
        """Return a fragment in pieces of about so many bytes or rows.

        Raises:
            Incomplete: A file cannot be reached for now.
        """
        try:
            format_ = self._format
            return retrying(
                lambda: divide(format_, fragment, self.storage_options, most_bytes, most_rows), within=LOOKING_SECONDS
            )
        except Exception as error:
            if not is_transient(error):
                raise
            raise Incomplete(f"source.path: {fragment.input.name} cannot be read: {first_line(error)}") from error

    def how_to_split(self, fragment: Fragment) -> str:
        """Return what a person can do so that several workers share the work of this fragment."""
        if self.format == "parquet":
            return "bytes do not divide a row group, rows do: shard_rows=N divides it into shards of N rows"
        if codec_of(fragment.input.name) and self.format in TEXT:
            return "a compressed file is not divided; to use more workers, write it as several files, or uncompressed"
        if self.format in TEXT:
            return "no place was found to divide it at; to use more workers, write it as several files"
        return (
            f"{self.format} files are not divided further; to use more workers, write it as Parquet or as several files"
        )

    def _inspect_file(self, file: Input) -> FileContents | str:
        if file.size == 0 and self.format in TEXT:
            return FileContents([Fragment(file, 0, 0)], None)
        if file.size == 0 and self.format not in OF_ANY_SIZE:
            return f"source.path: {file.name} is empty, which no {self.format} file is: was its upload cut off{skip_hint(file.name)}"
        try:
            contents = retrying(lambda: self._format.inspect(file, self.storage_options), within=LOOKING_SECONDS)
            partitions.refuse_twice(file.folder if self.partitioning else "")
        except Exception as error:
            message = f"source.path: {file.name} cannot be read as {self.format}: {first_line(error)}"
            if is_transient(error):
                raise Incomplete(message) from error
            return f"{message}{'' if type(error) is ValueError else self._likeness(file)}{skip_hint(file.name)}"
        if contents.schema is None:
            return contents
        return contents._replace(
            schema=partitions.with_partitions(contents.schema, self._partition(file), self._types_of(file))
        )

    def _likeness(self, file: Input) -> str:
        """Return for a message what a file that could not be read looks like."""
        with contextlib.suppress(Exception), open_stored(file.name, self.storage_options, HEAD) as stored:
            return hint(stored, OWN[self.format]) if self.format in OWN else ""
        return ""

    def _partition(self, file: Input) -> dict[str, str | None]:
        return partitions.parse(file.folder) if self.partitioning else {}

    def _types_of(self, file: Input) -> Mapping[str, pa.DataType]:
        """Return the types of a file's partition keys; those of a file that was not listed come from its own values."""
        known = self._partition_types
        return known if set(self._partition(file)) <= set(known) else partitions.column_types([file.folder])

    def reader(self, schema: pa.Schema) -> FilesReader:
        """Return what workers read fragments with."""
        return FilesReader(self._format, schema, self.filters, self.partitioning, self.storage_options)

    @property
    def _format(self) -> Format:
        kinds: dict[str, Callable[[], Format]] = {
            "parquet": Parquet,
            "csv": lambda: Csv(self.delimiter, self.column_types, self._tolerant),
            "jsonl": lambda: Jsonl(self.column_types, self._tolerant),
            "arrow": Arrow,
            "orc": Orc,
            "text": lambda: Text(self.encoding, self._tolerant),
            "binary": Binary,
            "images": lambda: Images(self.mode, self.size, self._tolerant),
        }
        found = kinds[self.format]()
        return Cast(found, self.column_types, self._tolerant) if self.column_types and self.format in TYPED else found


def given(source: Any, less: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass that are not at their default, by name, without those named in `less`."""
    options = [option for option in fields(source) if option.name not in less]
    return {each.name: value for each in options if (value := getattr(source, each.name)) != _default(each)}


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()
