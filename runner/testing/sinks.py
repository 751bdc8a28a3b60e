"""What a sink promises, as a check."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from runner.errors import ConfigError
from runner.storage.publishing import TakenOver, ask_before_publishing, confirm_at_end
from runner.types import (
    Fragment,
    Input,
    Shard,
    Sink,
    Written,
)
from runner.words.exceptions import led_to

if TYPE_CHECKING:
    import pyarrow as pa

from runner.testing.plain_data import holds_plain

PLAIN = ("whole", "number", "text", "flag")


def check_sink(make: Callable[[], Sink]) -> None:
    """Hold a sink against what runs rely on. It writes a few small parts, most of which are there afterwards.

    Args:
        make: Makes the sink, for the same place each time. There must be nothing in that place yet.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Sink`.
    """
    import pyarrow as pa

    sink = make()
    holds_plain("settings()", sink.settings())
    assert sink.settings() == make().settings(), "settings() must return the same each time"
    shards = [_shard(number) for number in range(8)]
    names = [sink.part(shard) for shard in shards]
    assert len(set(names)) == len(names), f"part() must call each part by another name: {names}"
    assert not _there(sink, shards), "committed() must bear that prepare() was never called: nothing is there then"
    schema = pa.schema([column for column in _columns() if _accepts(sink, column)])
    assert len(schema), f"check() must accept a column of at least one of these types: {_columns().types}"
    sink.check(schema)
    for _ in range(2):
        sink.prepare(schema)
    written = _check_writing(sink, make, shards, schema)
    _check_broken_writing(sink, shards, schema)
    _check_removing(sink, shards, schema)
    _check_publishing(make, shards[:-1], written, schema)


def _columns() -> pa.Schema:
    """What a part may hold; which of it a sink can is for its `check` to say."""
    import pyarrow as pa

    kinds = {"whole": pa.int64(), "number": pa.float64(), "text": pa.string(), "flag": pa.bool_(), "raw": pa.binary()}
    more = {"day": pa.date32(), "time": pa.timestamp("us", "UTC"), "vector": pa.list_(pa.float32(), 2)}
    return pa.schema([*{**kinds, **more}.items(), ("both", pa.struct([("a", pa.int64())])), ("odd", pa.struct([]))])


def _accepts(sink: Sink, column: pa.Field) -> bool:
    """Whether it takes a column alone, or beside plain ones, by which it may partition."""
    plain = [each for each in _columns() if each.name in PLAIN and each.name != column.name]
    return _takes(sink, [column]) or _takes(sink, [*plain, column])


def _takes(sink: Sink, columns: Sequence[pa.Field]) -> bool:
    import pyarrow as pa

    try:
        sink.check(pa.schema(columns))
    except ConfigError:
        return False
    return True


def _shard(number: int) -> Shard:
    """Shards in folders, with as many rows as their number times 3: the first is empty."""
    name = f"folder/{number}"
    return Shard(number, f"{number:016x}", "folder", (Fragment(Input(name, 1, "1", "folder"), 1, 3 * number),))


def _rows(shard: Shard, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    values: dict[str, Callable[[int], Any]] = {
        "number": lambda i: i / 3, "text": lambda i: f'a "quoted"\n{i}', "flag": lambda i: i % 2 == 0, "raw": lambda i: bytes([i]),
        "vector": lambda i: [i, None], "both": lambda i: {"a": i}, "odd": lambda _: {},
    }  # fmt: skip
    rows = [
        {name: None if i == 1 else values.get(name, int)(i) for name in schema.names} for i in range(shard.rows or 0)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _written(sink: Sink, shard: Shard, schema: pa.Schema, rows: int = 4) -> Written:
    """Write a part as a worker does, in tables of so many rows."""
    table = _rows(shard, schema)
    assert not sink.refused(table), (
        f"refused() must tell rows that a part cannot hold, and no others: {sink.refused(table)}"
    )
    pieces = (table.slice(start, rows) for start in range(0, table.num_rows, rows))
    return sink.write(shard, schema, confirm_at_end(pieces))


def _there(sink: Sink, shards: Sequence[Shard]) -> Mapping[str, int | None]:
    return sink.committed(shards, sink.records.names())


def _holds(sink: Sink, shard: Shard, written: Written) -> None:
    """What `write`, `committed` and `examine` say of a part is the same."""
    there = _there(sink, [shard])
    assert shard.id in there, "committed() must tell a part that was written"
    size = there[shard.id]
    assert size in (None, written.bytes), (
        f"committed() tells {size} bytes of a part of which write() told {written.bytes}"
    )
    assert written.rows == shard.rows, f"write() must tell the rows of the part: {written.rows} is not {shard.rows}"
    for known in (None, size):
        assert sink.examine(shard, known) == written, (
            f"examine() must find what write() told: {sink.examine(shard, known)} is not {written}"
        )


def _lacks(sink: Sink, shard: Shard, when: str) -> None:
    assert shard.id not in _there(sink, [shard]), f"committed() tells a part {when}"
    assert sink.examine(shard) is None, f"examine() must return None for a part {when}"


def _check_writing(sink: Sink, make: Callable[[], Sink], shards: Sequence[Shard], schema: pa.Schema) -> list[Written]:
    """Returns what was written of all shards but the last."""
    try:
        there: Sink = pickle.loads(pickle.dumps(sink))
    except Exception as error:
        raise AssertionError(f"the sink must be picklable, since it travels to the workers: {error!r}") from error
    *most, last = shards
    with ThreadPoolExecutor(4) as threads:
        written = list(threads.map(lambda shard: _written(there, shard, schema), most))
    for shard, found in zip(most, written, strict=True):
        _holds(make(), shard, found)
    _lacks(sink, last, "that was never written")
    assert set(_there(sink, shards)) == {shard.id for shard in most}, "committed() must tell all parts that are there"
    assert not _strangers(sink, most), f"these are no strangers: {_strangers(sink, most)}"
    assert _strangers(sink, most[1:]) or sink.edition() is not None, (
        "strangers() must tell a part that is not among the planned ones, unless it lies among the records, or only publish() shows it"
    )
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda rows: _written(make(), most[-1], schema, rows), [5, 1, 100, 5]))
    assert again == [written[-1]] * 4, (
        f"a part that is written again, at the same time, or in other tables, must be the same: {again} is not {written[-1]}"
    )
    _holds(sink, most[-1], written[-1])
    return written


def _strangers(sink: Sink, shards: Sequence[Shard]) -> list[str]:
    """As a run tells them: what lies visibly among the records, and what the sink tells."""
    ours = {sink.part(shard) for shard in shards}
    hidden = re.compile(r"(^|/)[_.]")
    lying = [name for name in sink.records.names() if name not in ours and not hidden.search(name)]
    return [*lying, *sink.strangers(shards)]


def _check_broken_writing(sink: Sink, shards: Sequence[Shard], schema: pa.Schema) -> None:
    """What was begun and did not end well leaves nothing."""
    *most, last = shards

    def breaking() -> Iterator[pa.Table]:
        yield _rows(last, schema)
        raise EOFError("the model fails")

    def allow() -> None:
        pass

    def refuse() -> None:
        raise TakenOver("the sink has become another run's")

    for tables, ask, expected, when in (
        (breaking(), allow, EOFError, "whose tables raised"),
        (iter([_rows(last, schema)]), refuse, TakenOver, "that was written although the sink is another run's"),
    ):
        with ask_before_publishing(ask):
            error = _raised(sink, last, schema, confirm_at_end(tables))
        assert error is not None, f"write() must raise what its tables raise: {expected.__name__}"
        assert any(isinstance(each, expected) for each in led_to(error, hidden=True)), (
            f"write() must raise what its tables raise, or from it: {expected.__name__}, and not {error!r}"
        )
        _lacks(sink, last, when)
        assert not _strangers(sink, most), f"nothing may be left of a part {when}: {_strangers(sink, most)}"


def _raised(sink: Sink, shard: Shard, schema: pa.Schema, tables: Iterator[pa.Table]) -> Exception | None:
    try:
        sink.write(shard, schema, tables)
    except Exception as error:
        return error
    return None


def _check_publishing(
    make: Callable[[], Sink], shards: Sequence[Shard], written: Sequence[Written], schema: pa.Schema
) -> None:
    """What is published stays committed, whoever publishes it again."""
    before = make().edition()
    for shard in shards[:1]:  # which the check before this one removed
        _written(make(), shard, schema)
    for _ in range(2):
        make().publish(0, iter(zip(shards, written, strict=True)))
    for shard, found in zip(shards, written, strict=True):
        _holds(make(), shard, found)
    assert not make().rewritten(shards), f"nobody has rewritten these: {make().rewritten(shards)}"
    assert before is None or make().edition() != before, "edition() must change by publish()"


def _check_removing(sink: Sink, shards: Sequence[Shard], schema: pa.Schema) -> None:
    first, second, third, *_ = shards
    written = _written(sink, third, schema)
    for _ in range(2):
        sink.remove([first, second])
    _lacks(sink, second, "that was removed")
    _holds(sink, third, written)
    _holds(sink, second, _written(sink, second, schema))
