"""What an Iceberg table that is there says of itself: whose rows it holds, which columns it has, and what it cannot be given."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runner.sinks.parts import OURS
from runner.storage.iceberg import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

# Names of table properties: behind the prefix stands the name of an output, and the value is the last of its shards that was committed.
LAST_SHARD = "ray-batch-runner.last-shard."
ALONE = "ray-batch-runner.alone"  # the sequence number of our last commit after which the table held nothing of others, and our folder
OUTPUT, PLAN = "ray-batch-runner.output", "ray-batch-runner.plan"  # names of snapshot properties, for people
NEUTRAL = frozenset({"replace", "delete"})  # operations that add no rows


def last_shard(table: Any, output: str) -> int:
    """The number of the last shard of an output that a commit has shown, -1 before the first."""
    return int(table.properties.get(LAST_SHARD + output, -1))


def live_files(table: Any) -> dict[str, Any]:
    """The data files that the table consists of, by path."""
    from pyiceberg.manifest import ManifestContent

    snapshot = table.current_snapshot()
    manifests = [] if snapshot is None else snapshot.manifests(table.io)
    entries = (
        entry
        for manifest in manifests
        if manifest.content == ManifestContent.DATA
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
    )
    return {entry.data_file.file_path: entry.data_file for entry in entries}


def is_part(path: str, root: str) -> bool:
    """Whether a data file has the name of a part, and lies where the parts of this sink lie."""
    return path.startswith(f"{root}/") and OURS.fullmatch(path.removeprefix(f"{root}/")) is not None


def is_ours(table: Any, root: str) -> bool:
    """Whether every row of the table was written by sinks with this folder, as far as the table tells.

    Names of files tell until somebody compacts them. Then the table tells since when it held nothing else, and its history must say of
    each snapshot after that one that it added no rows.
    """
    if all(is_part(path, root) for path in live_files(table)):
        return True
    since, _, folder = table.properties.get(ALONE, "").partition(" ")
    if folder != root or table.metadata.format_version < 2:  # version 1 numbers no snapshots
        return False
    step, last = table.current_snapshot(), table.metadata.last_sequence_number
    while last > int(since):
        if step is None or step.sequence_number != last or _operation(step) not in NEUTRAL:
            return False
        step, last = table.snapshot_by_id(step.parent_snapshot_id or 0), last - 1
    return True


def _operation(snapshot: Any) -> str:
    return str(snapshot.summary.operation.value) if snapshot.summary else "unknown"


def partition_columns(table: Any) -> tuple[list[str], list[str]]:
    """The columns whose values divide the table's files, and the names of partition fields that are something else."""
    from pyiceberg.transforms import IdentityTransform

    schema = table.schema()
    plain = [each for each in table.spec().fields if isinstance(each.transform, IdentityTransform)]
    others = [
        f"{each.transform} of {schema.find_column_name(each.source_id)}"
        for each in table.spec().fields
        if each not in plain
    ]
    return [str(schema.find_column_name(each.source_id)) for each in plain], others


def unfit(table: Any, kept: pa.Schema, partition_by: Sequence[str], new: Collection[str] = ()) -> Iterator[str]:
    """Why a table cannot hold an output.

    Args:
        table: The table.
        kept: The columns of the output, in types that Iceberg has.
        partition_by: The columns by which the files of the output are divided.
        new: Columns that may be added to the table.
    """
    there = arrow_schema(table.schema())
    keys, others = partition_columns(table)
    if others:
        yield f"the table is partitioned by {', '.join(others)}; only columns as they are can be partition values here"
    elif keys != list(partition_by):
        yield f"the table is partitioned by {keys or 'nothing'}, and sink.partition_by={list(partition_by)}; give what the table has"
    for field in table.schema().fields:
        if field.required:
            yield f"column {field.name!r} is required, which this program does not check; make it optional"
    for column in kept:
        if column.name not in there.names:
            if column.name in new:
                continue
            yield f"the table has no column {column.name!r}, only {', '.join(there.names)}; add it to the table, or leave it out"
        elif not _holds(there.field(column.name).type, column.type):
            yield f"column {column.name!r} is {there.field(column.name).type} in the table, and {column.type} in the output"


def _holds(there: pa.DataType, kept: pa.DataType) -> bool:
    import pyarrow as pa

    wider = {(pa.int64(), pa.int32()), (pa.float64(), pa.float32())}
    return bool(there == kept) or (there, kept) in wider


# ---------------------------------------------------------------- types


def kept_schema(schema: pa.Schema) -> tuple[pa.Schema, list[str]]:
    """The columns in types that Iceberg has for them, and those that it has none for, each with its type."""
    import pyarrow as pa

    kinds = {column.name: _kept_as(column.type) for column in schema}
    wrong = [f"{column.name} ({column.type})" for column in schema if kinds[column.name] is None]
    return pa.schema([(name, kind) for name, kind in kinds.items() if kind is not None]), wrong


def _kept_as(kind: pa.DataType) -> pa.DataType | None:
    """The type in which an Iceberg table keeps every value of a type; `None` if there is none."""
    import pyarrow as pa

    is_ = pa.types
    narrow = dict.fromkeys((pa.int8(), pa.int16(), pa.uint8(), pa.uint16()), pa.int32())
    other = {pa.uint32(): pa.int64(), pa.float16(): pa.float32(), pa.date64(): pa.date32(), **narrow}
    same = {pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.date32()}
    if kind in same or kind in other:
        return other.get(kind, kind)
    if is_.is_dictionary(kind) or is_.is_run_end_encoded(kind):
        return _kept_as(kind.value_type)
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return pa.string()
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind):
        return pa.binary()
    if is_.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if is_.is_time(kind):
        return pa.time64("us")
    if is_.is_fixed_size_binary(kind) or (is_.is_decimal128(kind) and kind.scale >= 0):
        return kind
    return _nested(kind)


def _nested(kind: pa.DataType) -> pa.DataType | None:
    """Of a list of fixed size, the size is not kept: Iceberg has no such type."""
    import pyarrow as pa

    if pa.types.is_map(kind):
        pair = _kept_as(kind.key_type), _kept_as(kind.item_type)
        return None if None in pair else pa.map_(*pair)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        value = _kept_as(kind.value_type)
        return None if value is None else pa.list_(pa.field("element", value))
    if pa.types.is_struct(kind) and kind.num_fields:
        fields = [(field.name, _kept_as(field.type)) for field in kind]
        return None if None in dict(fields).values() else pa.struct(fields)
    return None
