"""What the log of a Delta table says of its files: which may have rows that pass a filter, and which hold rows that are new."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.sources.filters import filter_columns, skipping_filter
from runner.storage.folder import Folder
from runner.types import Filters

if TYPE_CHECKING:
    import pyarrow as pa

START_OVER = "sink.save_mode=overwrite starts over with the newest version"


class Added(NamedTuple):
    """A data file as the log names it.

    Attributes:
        path: Below the table's root, encoded as in a URL.
        bytes: Its size.
        partition: Values of the partition columns, as text.
    """

    path: str
    bytes: int
    partition: Mapping[str, str | None]

    @classmethod
    def listed(cls, action: Mapping[str, Any], schema: pa.Schema) -> Added:
        """Return what deltalake lists, whose partition values have types."""
        import pyarrow as pa

        kinds = {name: schema.field(name).type for name in action.get("partition") or {}}
        values = (action.get("partition") or {}).items()
        return cls(
            action["path"],
            action["size_bytes"],
            {name: pa.array([value], kinds[name]).cast(pa.string())[0].as_py() for name, value in values},
        )


# ---------------------------------------------------------------- what filters leave out


def passing(
    listed: Sequence[dict[str, Any]], schema: pa.Schema, stored: Mapping[str, str], filters: Filters
) -> list[dict[str, Any]]:
    """Return the files in which a row may pass the filters, by partition values and statistics.

    Args:
        listed: The add actions, as deltalake gives them.
        schema: Of the table.
        stored: Names of columns in statistics, where they are others.
        filters: The exact filters.
    """
    keep = skipping_filter(filters, schema)
    if keep is None:
        return list(listed)
    import pyarrow.dataset as ds
    from pyarrow.fs import LocalFileSystem

    # pyarrow decides by what is promised of each file; it opens none of them, so any names will do.
    kind, place = ds.ParquetFileFormat(), LocalFileSystem()
    promised = [_promised(each, schema, stored, filter_columns(filters)) for each in listed]
    files = [kind.make_fragment(f"{i}", place, each) for i, each in enumerate(promised)]
    dataset = ds.FileSystemDataset(files, schema, kind, place)
    return [listed[int(each.path)] for each in dataset.get_fragments(filter=keep)]


def _promised(action: Mapping[str, Any], schema: pa.Schema, stored: Mapping[str, str], names: Sequence[str]) -> Any:
    """Return what is true of every row of a file."""
    import pyarrow.dataset as ds

    promise = ds.scalar(value=True)
    for name in names:
        partition = action.get("partition") or {}
        if name in partition:
            is_ = (
                ds.field(name).is_null()
                if partition[name] is None
                else ds.field(name) == _typed(partition[name], schema, name)
            )
            promise = promise & is_
            continue
        least, most = ((action.get(which) or {}).get(stored.get(name, name)) for which in ("min", "max"))
        bounds = least is not None and most is not None and least == least and most == most  # a NaN bounds nothing
        if bounds and _is_exact(schema.field(name).type):
            promise = (
                promise
                & (ds.field(name) >= _typed(least, schema, name))
                & (ds.field(name) <= _typed(most, schema, name))
            )
    return promise


def _typed(value: Any, schema: pa.Schema, name: str) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(value, schema.field(name).type)


def _is_exact(kind: pa.DataType) -> bool:
    """Whether statistics in the log bound the values: times are cut to milliseconds there, and decimals are fractions."""
    import pyarrow as pa

    is_ = pa.types
    return any(check(kind) for check in (is_.is_integer, is_.is_string, is_.is_date, is_.is_floating))


# ---------------------------------------------------------------- what is new


class NotAppended(Exception):
    """Rows were changed, or nobody can tell which are new."""


def appended(root: Folder, since: int, newest: int, partition: Mapping[str, str]) -> dict[str, Added]:
    """Return the files that were added after a version, by path.

    A file that was compacted away since is among them, and what replaced it is not: its rows are the same. What a DELETE left of rows is
    not new either.

    Args:
        root: Of the table.
        since: The version.
        newest: Up to this one.
        partition: Names of the partition columns by those in the log.

    Raises:
        NotAppended: A commit did more than add rows, or is not there any more.
    """
    new: dict[str, Added] = {}
    for version in range(since + 1, newest + 1):
        text = root.read(f"_delta_log/{version:020d}.json")
        if text is None:
            raise NotAppended(
                f"the log has been cleaned up after version {since}, which was planned last (version {version} is gone), so nobody can "
                f"tell which rows are new. Keep the log for longer than there is between two runs; {START_OVER}"
            )
        _follow([json.loads(line) for line in text.splitlines() if line.strip()], version, new, partition)
    return new


def _follow(
    actions: Sequence[dict[str, Any]], version: int, new: dict[str, Added], partition: Mapping[str, str]
) -> None:
    """Take one commit into account."""
    adds = [each["add"] for each in actions if each.get("add", {}).get("dataChange")]
    gone = [each["remove"]["path"] for each in actions if each.get("remove", {}).get("dataChange")]
    operation = next((each["commitInfo"].get("operation") for each in actions if "commitInfo" in each), "unknown")
    if gone and operation != "DELETE":
        raise NotAppended(
            f"version {version} ({operation}) has changed or replaced rows, and append takes only rows that were added; {START_OVER}"
        )
    if gone:
        for path in gone if not adds else ():  # whole files, which may be new ones
            new.pop(path, None)
        return
    for add in adds:
        values = {partition.get(name, name): value or None for name, value in add.get("partitionValues", {}).items()}
        new[add["path"]] = Added(add["path"], int(add["size"]), values)
