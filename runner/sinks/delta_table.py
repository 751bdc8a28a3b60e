"""What a Delta table that is there says of itself: whose rows it holds, which columns it has, and whether this program can write to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runner.sinks import delta_actions
from runner.sinks.parts import OURS, Output
from runner.storage.delta import active_files, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

MARK = "ray-batch-runner"  # in the commits that are ours
MADE = "predictions of ray-batch-runner"  # the description of a table that is: its columns are ours to change
ALONE, BESIDE = "alone", "beside others"  # its values: whether the table held nothing else after the commit
# Operations of others that add no rows of theirs.
NEUTRAL = frozenset(
    {"OPTIMIZE", "VACUUM START", "VACUUM END", "DELETE", "SET TBLPROPERTIES", "CREATE TABLE", "FSCK", "COMPUTE STATS"}
)
FEATURES = frozenset(
    {"appendOnly", "timestampNtz", "deletionVectors", "changeDataFeed", "v2Checkpoint", "vacuumProtocolCheck"}
    | {"domainMetadata", "inCommitTimestamp", "variantType", "variantType-preview", "typeWidening"}
    | {"invariants", "checkConstraints", "generatedColumns", "identityColumns", "columnMapping"}  # refused where used
)
PROPERTIES = {
    "delta.columnMapping.mode": "its columns have other names in the files (column mapping)",
    "delta.setTransactionRetentionDuration": "its log forgets transactions, which tell what was committed; unset that property",
}
RULES = ("delta.invariants", "delta.generationExpression", "delta.identity.start", "delta.identity.step")


def last_shard(table: Any, output: Output) -> int:
    """The number of the last shard of an output that a commit has shown, -1 before the first."""
    version = table.transaction_version(output.name)
    return -1 if version is None else int(version)


def has_our_columns(table: Any) -> bool:
    """Whether this program has created the table. The columns of any other stay as somebody wanted them."""
    return bool(table.metadata().description == MADE)


def is_ours(table: Any) -> bool:
    """Whether every row of the table was written by this program, as far as the table tells.

    Names of files tell until somebody compacts them; then the log's history does, as far back as to a commit that left nothing else.
    """
    paths = active_files(table)
    if paths and all(map(OURS.fullmatch, paths)):
        return True
    for commit in table.history():
        if commit.get(MARK) == ALONE:
            return True
        if MARK not in commit and commit.get("operation") not in NEUTRAL:
            return False
    return False


def stale_files(table: Any, adds: Sequence[Any]) -> list[Any]:
    """The actions that remove what an earlier output of this program has in a table beside the rows of others."""
    import pyarrow as pa

    new = {each.path for each in adds}
    there = pa.table(table.get_add_actions()).to_pylist()
    return [
        delta_actions.remove_action(
            each["path"], {key: _text(value) for key, value in (each.get("partition") or {}).items()}
        )
        for each in there
        if OURS.fullmatch(each["path"]) and each["path"] not in new
    ]


def _text(value: Any) -> str | None:
    """A value of a partition column as the log writes it."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def with_deletes(table: Any) -> set[str]:
    """The files of ours of which a deletion vector names rows: deltalake cannot remove such a file by its name."""
    import pyarrow as pa

    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return set()
    named = pa.table(table.deletion_vectors()).column("filepath").to_pylist()
    ours = [path for path in active_files(table) if OURS.fullmatch(path)]
    return {path for path in ours if any(uri.endswith(f"/{path}") for uri in named)}


def unwritable(table: Any) -> Iterator[str]:
    """Why this program must not write to a table, whatever it would write."""
    asked = set(table.protocol().writer_features or ()) - FEATURES
    if asked:
        yield f"the table asks of those who write to it what this program does not do: {', '.join(sorted(asked))}"
    given = table.metadata().configuration
    for name, why in PROPERTIES.items():
        if given.get(name, "none") != "none":
            yield f"{name}={given[name]}: {why}"
    if checks := sorted(name for name in given if name.startswith("delta.constraints.")):
        yield f"the table checks its rows ({', '.join(checks)}), which this program does not do; drop the constraint"
    for field in table.schema().fields:
        if rules := [rule for rule in RULES if rule in (field.metadata or {})]:
            yield f"column {field.name} has a rule that this program does not follow: {', '.join(rules)}"
        if not field.nullable:
            yield f"column {field.name} is NOT NULL, which this program does not check; drop that constraint"


def other_columns(table: Any, stored: pa.Schema) -> Iterator[str]:
    """How the columns of an output differ from those of the table: it may have fewer, and none of another type."""
    from deltalake import Schema

    there, ours = arrow_schema(table.schema()), arrow_schema(Schema.from_arrow(stored))
    for column in ours:
        if column.name not in there.names:
            yield f"the table has no column {column.name!r}, only {', '.join(there.names)}; add it to the table, or leave it out"
        elif there.field(column.name).type != column.type:
            yield f"column {column.name!r} is {there.field(column.name).type} in the table, and {column.type} in the output"
