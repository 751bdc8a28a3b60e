"""What a sink's records are as bytes: plans, receipts, the manifest. Written and read piece by piece, however many parts there are."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from runner import planning
from runner.types import Receipt, Shard

if TYPE_CHECKING:
    import pyarrow as pa

PLAN_ROWS = 65_536  # of a plan that are columns and objects at the same time
FORGOTTEN = frozenset({"vitals"})  # what a worker's process was like belongs to the run, not to the part

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, `size` at a time."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


# ---------------------------------------------------------------- plans


def plan_file(shards: Iterable[Shard]) -> bytes:
    """A plan as Parquet: a row for each fragment."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _plan_schema(), compression="zstd") as writer:
        for rows in chunks(planning.to_rows(shards), PLAN_ROWS):
            columns = zip(*rows, strict=True)
            writer.write_table(pa.table(dict(zip(planning.COLUMNS, columns, strict=True)), schema=_plan_schema()))
    return buffer.getvalue()


def plan_of(content: bytes) -> list[Shard]:
    """The shards of a plan.

    Raises:
        ArrowException, KeyError: It is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(io.BytesIO(content)) as file:
        return planning.from_rows(_rows(file.iter_batches(PLAN_ROWS)))


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        columns = (column.to_pylist() for column in batch.select(list(planning.COLUMNS)).columns)
        yield from zip(*columns, strict=True)


def _plan_schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    kinds = [number, text, text, text, number, text, number, number, number, number, number]
    return pa.schema(list(zip(planning.COLUMNS, kinds, strict=True)))


# ---------------------------------------------------------------- receipts


def receipt_line(receipt: Receipt) -> str:
    """A receipt as it is kept."""
    return json.dumps({name: value for name, value in vars(receipt).items() if name not in FORGOTTEN}) + "\n"


class Entry(NamedTuple):
    """What a receipt, and then the manifest, says of a part.

    Attributes:
        rows_in: Rows read, after filters.
        rows_out: Rows in the part.
        rows_quarantined: Rows in the quarantine file.
        bytes: Size of the part.
        checksum: `sha256:...` of the part.
    """

    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes: int
    checksum: str


def entry_of(line: bytes) -> tuple[str, Entry] | None:
    """A receipt's shard and entry, `None` for a damaged line: its part is then read once, as if there had been none."""
    try:
        told = json.loads(line)
        numbers = (told["rows_in"], told["rows_out"], told["rows_quarantined"], told["bytes_out"])
        return told["shard"], Entry(*numbers, told["checksum"])
    except (ValueError, KeyError, TypeError):
        return None


# ---------------------------------------------------------------- the manifest


def manifest(
    fingerprint: str, skipped: Sequence[str], parts: Mapping[str, Shard], entries: Mapping[str, Entry]
) -> Iterator[bytes]:
    """JSON in pieces: the totals, then a line for each part.

    Args:
        fingerprint: Of the job.
        skipped: Input files that were left out by name.
        parts: Each part's name and shard, in input order.
        entries: One for each shard, by its id.
    """
    found = [entries[shard.id] for shard in parts.values()]
    head = {
        "fingerprint": fingerprint,
        "rows_in": sum(entry.rows_in for entry in found),
        "rows_out": sum(entry.rows_out for entry in found),
        "rows_quarantined": sum(entry.rows_quarantined for entry in found),
        "bytes": sum(entry.bytes for entry in found),
        "skipped": skipped,
    }
    yield f'{json.dumps(head).removesuffix("}")}, "parts": ['.encode()
    for number, (name, shard) in enumerate(parts.items()):
        line = json.dumps({"part": name, "shard": shard.id, **entries[shard.id]._asdict(), "input": _input(shard)})
        yield f"{',' if number else ''}\n{line}".encode()
    yield b"\n]}\n"


def _input(shard: Shard) -> list[dict[str, Any]]:
    return [
        {
            "path": fragment.file.path,
            "version": fragment.file.version,
            "size": fragment.file.size,
            "row_groups": fragment.row_groups,
        }
        for fragment in shard.fragments
    ]


def skipped_in(manifest: bytes) -> list[str]:
    """The input files that a manifest says were left out; its parts are not kept while it is read.

    Raises:
        ValueError, KeyError, TypeError: It is damaged.
    """
    found: list[str] = json.loads(manifest, object_hook=_unless_part)["skipped"]
    return found


def _unless_part(content: dict[str, Any]) -> dict[str, Any] | None:
    return content if "parts" in content else None
