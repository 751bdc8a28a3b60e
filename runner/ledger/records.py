"""Plans, receipts and the manifest as bytes, written and read piece by piece, so that millions of parts fit into memory."""

from __future__ import annotations

import builtins
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from sys import intern
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from runner.types import Fragment, Input, Receipt, Shard, Written

if TYPE_CHECKING:
    import pyarrow as pa

FORMER = ("first_row_group", "end_row_group")
COLUMNS = (
    "sequence",
    "shard",
    "folder",
    "path",
    "size",
    "version",
    "bytes",
    "rows",
    "first_row",
    "span",
    "joinable",
)
PLAN_ROWS = 8_192  # of a plan that are columns and objects at the same time
PARTS = '"parts": ['  # begins what a manifest says of each part: the rest of it comes before
HEAD_BYTES = 65_536  # of a manifest that are read at a time
FORGOTTEN = frozenset({"vitals"})  # what a worker's process was like belongs to the run, not to the part

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items each; the last may be shorter."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


# ---------------------------------------------------------------- plans


def plan_file(shards: Iterable[Shard]) -> bytes:
    """A plan as Parquet: a row for each fragment."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _plan_schema(), compression="zstd") as writer:
        for rows in chunks(to_rows(shards), PLAN_ROWS):
            writer.write_table(_plan_table(rows))
    return buffer.getvalue()


def _plan_table(rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    import pyarrow as pa

    schema = _plan_schema()
    return pa.table(list(map(_array, schema.types, zip(*rows, strict=True))), schema=schema)


def _array(kind: pa.DataType, values: Sequence[Any]) -> pa.Array:
    """The values as an Arrow array, of texts or of integers; `None` is null.

    `pa.array` does the same, but imports pandas first if that is installed, which takes half a second while all workers wait for the
    plan. So the buffers are packed by hand, as Arrow's columnar format lays them out: a bitmap of valid values (bit 0 first), for texts
    their end offsets (int32, so that a batch of `PLAN_ROWS` texts must stay below 2 GiB), and the data. It breaks with a type that is
    neither `string` nor `int64`.
    """
    import numpy as np
    import pyarrow as pa

    if kind == pa.string():
        texts = [value.encode() if isinstance(value, str) else value or b"" for value in values]
        data = [np.cumsum([0, *map(len, texts)], dtype=np.int32), b"".join(texts)]
    else:
        data = [np.array([value or 0 for value in values], np.int64)]
    valid = np.packbits([value is not None for value in values], bitorder="little")
    return pa.Array.from_buffers(kind, len(values), list(map(pa.py_buffer, [valid, *data])))


def plan_of(content: bytes) -> list[Shard]:
    """The shards of a plan.

    Raises:
        ArrowException, KeyError: It is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(io.BytesIO(content)) as file:
        return from_rows(_rows(file.iter_batches(PLAN_ROWS)))


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[Any, ...]]:
    for batch in map(_of_today, batches):
        columns = (column.to_pylist() for column in batch.select(list(COLUMNS)).columns)
        yield from zip(*columns, strict=True)


def _of_today(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in today's form. Plans of earlier versions had row groups in two columns of numbers."""
    import pyarrow as pa

    if FORMER[0] not in batch.schema.names:
        return batch
    pairs = list(zip(*(batch.column(name).to_pylist() for name in FORMER), strict=True))
    spans = [None if pair[0] is None else json.dumps(pair) for pair in pairs]
    joinable = [int(span is not None) for span in spans]
    kept = batch.select([name for name in COLUMNS if name in batch.schema.names])
    return pa.record_batch([*kept.columns, pa.array(spans, pa.string()), pa.array(joinable)], names=list(COLUMNS))


def _plan_schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    kinds = [number, text, text, text, number, text, number, number, number, text, number]
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))


def to_rows(shards: Iterable[Shard]) -> Iterator[tuple[Any, ...]]:
    """One row for each fragment, as a recorded plan has it: the values of `COLUMNS`."""
    for shard in shards:
        for fragment in shard.fragments:
            input_, span = fragment.input, None if fragment.span is None else json.dumps(fragment.span)
            yield (shard.sequence, shard.id, shard.folder, input_.name, input_.size, input_.version,
                   fragment.bytes, fragment.rows, fragment.first_row, span, int(fragment.joinable))  # fmt: skip


def from_rows(rows: Iterable[tuple[Any, ...]]) -> list[Shard]:
    """The shards of the rows of a recorded plan."""
    grouped = groupby(rows, key=itemgetter(0, 1, 2))
    return [
        Shard(number, id_, intern(folder), tuple(map(_fragment, group))) for (number, id_, folder), group in grouped
    ]


def _fragment(row: tuple[Any, ...]) -> Fragment:
    _, _, folder, name, size, version, stored, rows, first_row, span, joinable = row
    return Fragment(
        Input(name, size, version, intern(folder)), stored, rows, first_row, span and _span(span), bool(joinable)
    )


@lru_cache(maxsize=1024)
def _span(text: str) -> tuple[Any, ...]:
    """The span that JSON describes. The many inputs with the same span share one tuple."""
    return tuple(map(_frozen, json.loads(text)))


def _frozen(value: Any) -> Any:
    """The value with tuples in place of lists, as the source gave it."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


# ---------------------------------------------------------------- receipts


def receipt_line(receipt: Receipt) -> str:
    """A receipt as a line of JSON."""
    return json.dumps({name: value for name, value in vars(receipt).items() if name not in FORGOTTEN}) + "\n"


class Entry(NamedTuple):
    """What a receipt, and then the manifest, says of a part.

    Attributes:
        rows_in: Rows read, after filters.
        rows_out: Rows in the part.
        rows_quarantined: Rows in the quarantine file.
        bytes: Size of the part.
        checksum: `sha256:...` of the part.
        quarantine: The same of the quarantine file; empty where there is none, and in what earlier versions wrote.
    """

    rows_in: int
    rows_out: int
    rows_quarantined: int
    bytes: int
    checksum: str
    quarantine: str = ""

    @property
    def written(self) -> Written:
        """What is said of the part alone."""
        return Written(self.bytes, self.checksum, self.rows_out)

    def packed(self) -> builtins.bytes:
        """The entry as bytes, which take half of the memory: there is one for each part."""
        return " ".join(map(str, (*self[:4], self.quarantine, self.checksum))).encode()

    @classmethod
    def unpacked(cls, packed: builtins.bytes) -> Entry:
        """The entry that was packed."""
        rows_in, rows_out, rows_quarantined, size, aside, checksum = packed.decode().split(" ", 5)
        return cls(int(rows_in), int(rows_out), int(rows_quarantined), int(size), checksum, aside)


def entry_of(line: bytes) -> tuple[str, Entry] | None:
    """The shard id and the entry of a receipt; `None` for a damaged line, whose part is then read once, as if it had no receipt."""
    try:
        told = json.loads(line)
        numbers = int(told["rows_in"]), int(told["rows_out"]), int(told["rows_quarantined"]), int(told["bytes_out"])
        return str(told["shard"]), Entry(*numbers, str(told["checksum"]), str(told.get("quarantine", "")))
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


# ---------------------------------------------------------------- the manifest


def manifest(
    fingerprint: str,
    skipped: Sequence[str],
    shards: Sequence[Shard],
    part: Callable[[Shard], str],
    entries: Mapping[str, bytes],
) -> Iterator[bytes]:
    """JSON in pieces: the totals, then a line for each part.

    Args:
        fingerprint: Of the job.
        skipped: Input files that were left out by name.
        shards: All of them, in input order.
        part: The name of a shard's part.
        entries: A packed entry for each shard, by its id.
    """
    totals = [0, 0, 0, 0]
    for shard in shards:
        numbers = Entry.unpacked(entries[shard.id])[:4]
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
    head = {"fingerprint": fingerprint, **dict(zip(Entry._fields, totals, strict=False)), "skipped": skipped}
    yield f"{json.dumps(head).removesuffix('}')}, {PARTS}".encode()
    for number, shard in enumerate(shards):
        entry = Entry.unpacked(entries[shard.id])._asdict()
        line = json.dumps({"part": part(shard), "shard": shard.id, **entry, "input": _input(shard)})
        yield f"{',' if number else ''}\n{line}".encode()
    yield b"\n]}\n"


def _input(shard: Shard) -> list[dict[str, Any]]:
    return [
        {
            "path": fragment.input.name,
            "version": fragment.input.version,
            "size": fragment.input.size,
            "span": fragment.span,
        }
        for fragment in shard.fragments
    ]


def entry_in(part: Mapping[str, Any]) -> Entry | None:
    """What a line of a manifest says, `None` if something is missing. Earlier versions wrote no checksums of quarantine files."""
    numbers = [part.get(name) for name in Entry._fields[:4]]
    texts = part.get("checksum"), part.get("quarantine", "")
    whole = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
    return Entry._make([*numbers, *texts]) if whole else None


def head_of(manifest: IO[bytes]) -> dict[str, Any]:
    """The totals of a manifest, and the input files that were left out; its parts, which come after them, are not read.

    Raises:
        ValueError, KeyError, TypeError: It is damaged.
    """
    head, mark = b"", PARTS.encode()
    while mark not in head and (piece := manifest.read(HEAD_BYTES)):
        head += piece
    found: dict[str, Any] = json.loads(head[: head.index(mark)] + mark + b"]}")
    return found
