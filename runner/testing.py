"""Conformance checks: what a source, a sink, a mode or a model loader promises, for the tests of whoever writes one.

Each check raises an `AssertionError` that says which promise is broken. The built-in kinds run the same checks.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.arrow.batches import to_input
from runner.arrow.isolate import Failed, Good
from runner.arrow.predictions import to_table
from runner.arrow.schemas import BadPredictions, fixed_schema
from runner.errors import ConfigError
from runner.predictor.calling import LocalCaller, is_async
from runner.predictor.shipping import Shipper, loaded
from runner.process.signals import Signals
from runner.storage.publishing import TakenOver, ask_before_publishing, confirm_at_end
from runner.types import (
    Answer,
    BatchKind,
    Caller,
    Done,
    Errors,
    Fit,
    Fragment,
    Input,
    Lost,
    Mode,
    Model,
    Pool,
    Predictor,
    RayOptions,
    Reader,
    Receipt,
    Resources,
    Setup,
    Shard,
    Sink,
    Source,
    Stages,
    Written,
)
from runner.words import exceptions
from runner.worker.predicting import Predicting

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# ---------------------------------------------------------------- a source


def check_source(source: Source) -> None:
    """Hold a source against what runs rely on. All that it offers is read several times: give it a little data, in two inputs or more.

    Args:
        source: Of at least one input with rows. It must not be a tolerant one.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Source` or `runner.types.Reader`.
    """
    _holds_plain("settings()", source.settings() or {})
    assert source.settings() == source.settings(), "settings() must return the same each time"
    with source.reading():
        inputs = source.inputs()
        _check_inputs(source, inputs)
        fragments, schema = source.inspect(inputs)
        _check_fragments(inputs, fragments)
        assert schema is not None, "inspect() must tell a schema where there are rows"
        assert fragments[1:] == [] or _alone(source, inputs) == fragments, (
            "inspect() of one input must give the fragments that inspect() of all inputs gives for it: a later run sees new inputs alone"
        )
        reader = source.reader(schema)
        rows = [_check_reader(reader, fragment, schema, source) for fragment in fragments]
        assert sum(rows), "there is no row to check with: give the source some data"
        _check_joined(reader, fragments, schema)
        _check_travelled(reader, fragments, schema)


def _holds_plain(what: str, value: Any) -> None:
    try:
        same = json.loads(json.dumps(value)) == value
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} must be plain data, as JSON has it: {value!r} ({error})") from error
    assert same, f"{what} must be plain data that JSON gives back as it was: {value!r}"


def _check_inputs(source: Source, inputs: Sequence[Input]) -> None:
    assert inputs, "inputs() must list something for this check"
    names = [each.name for each in inputs]
    assert len(set(names)) == len(names), f"inputs() must give each input another name: {names}"
    assert source.inputs() == inputs, "inputs() must list the same, in the same order, while nothing changes"
    assert all(each.version for each in inputs), "each input needs a version that changes when its content does"


def _check_fragments(inputs: Sequence[Input], fragments: Sequence[Fragment]) -> None:
    order = [each.name for each in inputs]
    given = [name for name, _ in groupby(each.input.name for each in fragments)]
    assert given == [name for name in order if name in given], (
        "inspect() must give fragments in the order of the inputs"
    )
    for each in fragments:
        _holds_plain("a fragment's span", None if each.span is None else list(each.span))
        assert each.bytes >= 0, f"a fragment's bytes balance the shards: {each}"
    told_by = [(each.input.name, each.span, None if each.span else each.first_row) for each in fragments]
    assert len(set(told_by)) == len(told_by), (
        "the fragments of an input must differ in span, or in first_row where they have none"
    )
    for each in fragments:
        whole = each.joinable and each.span is not None and len(each.span) == 2
        assert whole or not each.joinable, f"a joinable fragment has a span (begin, end): {each}"


def _alone(source: Source, inputs: Sequence[Input]) -> list[Fragment]:
    return [fragment for each in inputs for fragment in source.inspect([each])[0]]


def _check_reader(reader: Reader, fragment: Fragment, schema: pa.Schema, source: Source) -> int:
    """Rows of the fragment."""
    tables = _tables(reader, fragment)
    for table in tables:
        assert table.schema.equals(schema), (
            f"read() must give the columns, types and order of the reader's schema: {table.schema} is not {schema}"
        )
    read = _joined(tables, schema)
    assert source.filtered or fragment.rows in (None, read.num_rows), (
        f"the fragment tells {fragment.rows} rows and has {read.num_rows}; `filtered` must say if rows are left out"
    )
    assert _joined(_tables(reader, fragment), schema).equals(read), "read() must give the same rows each time"
    _check_columns(reader, fragment, read)
    _check_numbers(reader, fragment, read)
    return int(read.num_rows)


def _check_columns(reader: Reader, fragment: Fragment, read: pa.Table) -> None:
    wanted = read.column_names[::-1]
    for columns in (wanted, wanted[:1]):
        some, broken = (
            _tables(reader, fragment, columns),
            f"read(columns={columns}) must give these columns, in this order",
        )
        assert all(table.column_names == columns for table in some), broken
        assert _joined(some, read.select(columns).schema).equals(read.select(columns)), broken


def _check_numbers(reader: Reader, fragment: Fragment, read: pa.Table) -> None:
    """A bad row is found again by its number within the input."""
    numbers = list(reader.positions(fragment))
    assert len(numbers) == read.num_rows, "positions() must give a number for each row that read() yields"
    assert all(a < b for a, b in pairwise(numbers)), f"positions() must ascend: {numbers[:10]}"
    if not numbers:
        return
    ends = [0, len(numbers) - 1] if len(numbers) > 1 else [0]
    found = reader.whole_rows(fragment, [numbers[i] for i in ends])
    shared = [name for name in read.column_names if name in found.column_names]
    assert shared == read.column_names, f"whole_rows() must have every column of read(): {found.column_names}"
    assert found.select(shared).to_pylist() == read.take(ends).to_pylist(), (
        "whole_rows() must give the rows of these numbers"
    )


def _check_joined(reader: Reader, fragments: Sequence[Fragment], schema: pa.Schema) -> None:
    for first, second in pairwise(fragments):
        if not (first.joinable and second.joinable and first.input == second.input and first.span and second.span):
            continue
        if first.span[1] != second.span[0]:
            continue
        one = replace(first, bytes=first.bytes + second.bytes, rows=None, span=(first.span[0], second.span[1]))
        apart = [*_tables(reader, first), *_tables(reader, second)]
        assert _joined(_tables(reader, one), schema).equals(_joined(apart, schema)), (
            f"joinable fragments must read the same when they are one: {first.span} and {second.span}"
        )


def _check_travelled(reader: Reader, fragments: Sequence[Fragment], schema: pa.Schema) -> None:
    """A reader goes to workers, and reads several fragments at once there."""
    try:
        there: Reader = pickle.loads(pickle.dumps(reader))
    except Exception as error:
        raise AssertionError(f"the reader must be picklable, since it travels to the workers: {error!r}") from error
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda fragment: _joined(_tables(there, fragment), schema), fragments))
    for fragment, table in zip(fragments, found, strict=True):
        assert table.equals(_joined(_tables(reader, fragment), schema)), (
            "a reader that has travelled must read the same, also in several threads at once"
        )


def _tables(reader: Reader, fragment: Fragment, columns: Sequence[str] | None = None) -> list[pa.Table]:
    def sound() -> Iterator[pa.Table]:
        for table in reader.read(fragment, columns):
            assert hasattr(table, "schema"), f"only a tolerant source yields unreadable rows: {table}"
            yield table

    return list(sound())


def _joined(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([table.cast(schema) for table in tables] or [schema.empty_table()]).combine_chunks()


# ---------------------------------------------------------------- a mode

CALLS = 12  # at least, that are to be answered
MOST_ROOM = 10_000  # calls: a pool that takes more has no bound
PATIENCE_SECONDS = 120.0  # for whatever must happen in the end
GROUPS = {"resources": Resources, "errors": Errors}


def check_mode(mode: Mode, resources: Resources | None = None) -> None:
    """Hold a mode against what runs rely on. Its workers must run on this machine, since each call leaves a file here.

    Where they are processes of their own, one is killed and one is abandoned.

    Args:
        mode: It is opened, given calls, and closed.
        resources: What each worker asks for; by default one CPU.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Mode` or `runner.types.Pool`.
    """
    setup = Setup(resources or Resources(), RayOptions(), 1, None, _unheard, Signals())
    _check_what_it_tells(mode, setup)
    with tempfile.TemporaryDirectory() as folder:
        pool = mode.open(Shipper(_load, on_driver=True), setup)
        calls = _Calls(pool, Path(folder))
        try:
            assert pool.wait(0) == [], "wait() must return nothing where nothing was submitted"
            _check_answers(calls)
            if calls.process_of(1) != os.getpid():
                _check_lost(calls)
                _check_abandoned(calls)
                calls.begin("stay")
        finally:
            pool.close()
        calls.check_ended("close()")


def _load() -> Predictor:
    return abs


def _unheard(_: str) -> None:
    """Notices are for people."""


def _check_what_it_tells(mode: Mode, setup: Setup) -> None:
    found = mode.fits(setup)
    assert found is None or isinstance(found, Fit), f"fits() must return a Fit, or None: {found!r}"
    known = [f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)]
    unknown = [key for key in mode.ignored() if key not in known]
    assert not unknown, f"ignored() must name keys of resources and errors: {unknown}"


def _check_answers(calls: _Calls) -> None:
    """Each call is executed once, and its own answer comes back once, in whatever order."""
    while calls.submitted < CALLS:
        while calls.pool.room() > 0:
            assert calls.submitted < MOST_ROOM, "room() must be 0 or less once enough calls were submitted"
            calls.submit("answer")
        calls.until(lambda: calls.pool.room() > 0, "room() must be more than 0 again once calls have come back")
    assert calls.pool.workers() >= 1, "workers() must count the workers that there are"
    calls.until(lambda: not calls.out, "wait() must return every call in the end")


def _check_lost(calls: _Calls) -> None:
    """A worker that dies is told as lost, and others go on."""
    ticket = calls.begin("die")
    calls.until(lambda: ticket not in calls.out, "wait() must return a call whose worker died")
    assert ticket in calls.lost, "a call whose worker died must come back as Lost"
    _check_goes_on(calls, "a worker died")


def _check_abandoned(calls: _Calls) -> None:
    """A worker that is given up is stopped, and its call never comes back."""
    ticket = calls.begin("stay")
    calls.until(lambda: ticket in calls.pool.running(), "running() must tell a call that a worker is at")
    calls.pool.abandon(ticket)
    calls.out.remove(ticket)
    _check_goes_on(calls, "a call was abandoned")
    calls.check_ended("abandon()")


def _check_goes_on(calls: _Calls, after: str) -> None:
    ticket = calls.begin("answer")
    calls.until(lambda: ticket not in calls.out, f"the pool must go on after {after}")
    assert ticket not in calls.lost, f"a call must be answered after {after}"


@dataclass(frozen=True)
class _Call:
    """Work that leaves a file, and then does as it is told.

    Attributes:
        folder: Where the file goes. Its name tells the ticket and the process.
        ticket: Under which the call is submitted.
        act: `answer`, `die`, or `stay` until somebody ends the process.
    """

    folder: str
    ticket: int
    act: str

    def run(self, model: Model) -> Answer:
        """Answer with a receipt that names this call."""
        Path(self.folder, f"{self.ticket}-{os.getpid()}-{uuid.uuid4().hex}").touch()
        if self.act == "die":
            os._exit(3)
        if self.act == "stay":
            time.sleep(10 * PATIENCE_SECONDS)
        [rows] = model.obtain()([-self.ticket])
        return [Receipt(str(self.ticket), rows, rows, 0, 0, "", Stages(), str(os.getpid()))]


class _Calls:
    """The calls that a pool is given.

    Attributes:
        pool: Executes them.
        submitted: How many there were, which is also the last ticket.
        out: Tickets of calls that have not come back.
        lost: Tickets of calls that came back without an answer.
        stuck: Processes that would never end by themselves.
    """

    def __init__(self, pool: Pool, folder: Path) -> None:
        """Take the pool, and where calls leave their files."""
        self.pool, self._folder, self.submitted = pool, folder, 0
        self.out: set[int] = set()
        self.lost: set[int] = set()
        self.stuck: list[int] = []

    def submit(self, act: str) -> int:
        """Submit a call, for which there must be room, and return its ticket."""
        self.submitted += 1
        self.out.add(self.submitted)
        self.pool.submit(self.submitted, _Call(str(self._folder), self.submitted, act))
        return self.submitted

    def begin(self, act: str) -> int:
        """Submit a call, once there is room, and return its ticket when a worker has begun it."""
        self.until(lambda: self.pool.room() > 0, "room() must be more than 0 where nothing is in flight")
        ticket = self.submit(act)
        self.until(lambda: bool(self._files(ticket)), "a call that was submitted must be executed")
        if act == "stay":
            self.stuck.append(self.process_of(ticket))
        return ticket

    def until(self, reached: Callable[[], bool], promise: str) -> None:
        """Take what comes back until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, promise
            self.pool.grow()
            for done in self.pool.wait(0.05):
                self._take(done)
            unknown = set(self.pool.running()) - self.out
            assert not unknown, f"running() must tell tickets of calls that have not come back: {unknown}"

    def _take(self, done: Done) -> None:
        assert done.ticket in self.out, f"wait() must return each submitted call once: {done}"
        self.out.remove(done.ticket)
        if isinstance(done.result, Lost):
            self.lost.add(done.ticket)
            return
        receipt = done.result[0] if isinstance(done.result, list) and len(done.result) == 1 else None
        told = isinstance(receipt, Receipt) and (receipt.shard, receipt.rows_in)
        assert told == (str(done.ticket), done.ticket), f"wait() must return what the call itself has answered: {done}"
        assert len(self._files(done.ticket)) == 1, f"each call must be executed once: {self._files(done.ticket)}"

    def process_of(self, ticket: int) -> int:
        """The process that has executed a call."""
        return int(self._files(ticket)[0].split("-")[1])

    def _files(self, ticket: int) -> list[str]:
        return [file.name for file in self._folder.glob(f"{ticket}-*")]

    def check_ended(self, by: str) -> None:
        """Processes that were stuck have been ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while running := [process for process in self.stuck if _runs(process)]:
            assert time.monotonic() < deadline, f"{by} must end a worker whatever it is at: {running} still run"
            time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and this system tells no more
        return Path("/proc/self/stat").exists() is False


# ---------------------------------------------------------------- a sink


def check_sink(make: Callable[[], Sink]) -> None:
    """Hold a sink against what runs rely on. It writes a few small parts, most of which are there afterwards.

    Args:
        make: Makes the sink, for the same place each time. There must be nothing in that place yet.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Sink`.
    """
    import pyarrow as pa

    sink = make()
    _holds_plain("settings()", sink.settings())
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
    _check_writing(sink, make, shards, schema)
    _check_broken_writing(sink, shards, schema)
    _check_removing(sink, shards, schema)


def _columns() -> pa.Schema:
    """What a part may hold; which of it a sink can is for its `check` to say."""
    import pyarrow as pa

    kinds = {"whole": pa.int64(), "number": pa.float64(), "text": pa.string(), "flag": pa.bool_(), "raw": pa.binary()}
    more = {"day": pa.date32(), "time": pa.timestamp("us", "UTC"), "vector": pa.list_(pa.float32(), 2)}
    return pa.schema([*{**kinds, **more}.items(), ("both", pa.struct([("a", pa.int64())])), ("odd", pa.struct([]))])


def _accepts(sink: Sink, column: pa.Field) -> bool:
    import pyarrow as pa

    try:
        sink.check(pa.schema([column]))
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


def _check_writing(sink: Sink, make: Callable[[], Sink], shards: Sequence[Shard], schema: pa.Schema) -> None:
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
    assert _strangers(sink, most[1:]), (
        "strangers() must tell a part that is not among the planned ones, unless it lies among the records"
    )
    with ThreadPoolExecutor(4) as threads:
        again = list(threads.map(lambda rows: _written(make(), most[-1], schema, rows), [5, 1, 100, 5]))
    assert again == [written[-1]] * 4, (
        f"a part that is written again, at the same time, or in other tables, must be the same: {again} is not {written[-1]}"
    )
    _holds(sink, most[-1], written[-1])
    for _ in range(2):
        sink.publish(0, iter(zip(most, written, strict=True)))
    _holds(sink, most[-1], written[-1])


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
        assert any(isinstance(each, expected) for each in _led_to(error)), (
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


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_removing(sink: Sink, shards: Sequence[Shard], schema: pa.Schema) -> None:
    first, second, third, *_ = shards
    written = _written(sink, third, schema)
    for _ in range(2):
        sink.remove([first, second])
    _lacks(sink, second, "that was removed")
    _holds(sink, third, written)
    _holds(sink, second, _written(sink, second, schema))


# ---------------------------------------------------------------- a model loader

CLOSE = 1e-4  # relative and absolute: libraries add up in another order where a batch has another size


def check_loader(
    load: Callable[[], Predictor],
    batch: pa.Table | pd.DataFrame,
    *,
    kind: BatchKind = "pandas",
    load_on: Literal["driver", "worker"] = "driver",
    repeatable: bool = True,
) -> None:
    """Hold a model loader, and the predictor that it returns, against what runs rely on.

    Args:
        load: The loader with its arguments: `partial(load, path="m.bin")`.
        batch: At least two rows that the model predicts; it may reject some of the others.
        kind: The form in which the predictor gets a batch: `predict.input`.
        load_on: `worker` for a predictor that cannot be pickled: whoever uses it gives `predict.load_on=worker`.
        repeatable: Whether a row is always predicted alike, whatever rows stand beside it.

    Raises:
        AssertionError: It breaks a promise of `runner.types.Predictor`.
    """
    import pyarrow as pa

    table = batch if isinstance(batch, pa.Table) else pa.Table.from_pandas(batch, preserve_index=False)
    assert table.num_rows >= 2, "give the check two rows or more"
    predictor = _check_loaded(load)
    names, rows = _check_whole(predictor, table, kind)
    _check_input_kept(predictor, table, kind)
    _check_empty(predictor, table, kind, names)
    in_two = _in_two(predictor, table, kind)
    assert len(in_two) == len(rows), "each row of a batch must have its prediction, also in another division"
    assert not repeatable or _alike(rows, in_two), (
        "the predictions of a row must not depend on the rows beside it, nor on what was prepared in the meantime: a batch in two pieces "
        f"gives {in_two}, in one piece {rows}; give repeatable=False if that is meant"
    )
    if load_on == "driver":
        travelled = _predicted(LocalCaller(_check_pickled(load)), table, kind)[1]
        assert not repeatable or _alike(rows, travelled), (
            f"a predictor that has been pickled must predict the same: {travelled} is not {rows}"
        )


class _InTwo(LocalCaller):
    """Gives the predictor a batch in two pieces, the second of which is prepared before the first is predicted."""

    concurrency = 2


def _in_two(predictor: Predictor, table: pa.Table, kind: BatchKind) -> list[Any]:
    """An `async` one says itself how many calls it takes at once, so it gets the pieces one after the other."""
    if is_async(predictor):
        return _predicted(LocalCaller(predictor), table, kind, pieces=2)[1]
    return _predicted(_InTwo(predictor), table, kind)[1]


def _check_loaded(load: Callable[[], Predictor]) -> Predictor:
    try:
        predictor = loaded(load)
    except TypeError as error:
        raise AssertionError(str(error)) from error
    assert is_async(predictor) or not hasattr(predictor, "concurrency"), (
        "`concurrency` has no effect where `__call__` is not `async def`"
    )
    return predictor


def _check_whole(predictor: Predictor, table: pa.Table, kind: BatchKind) -> tuple[list[str], list[Any]]:
    """The names of the predictions, and the predictions."""
    found, rows = _predicted(LocalCaller(predictor), table, kind)
    assert found is not None, "the predictor must not reject every row: give the check rows that it predicts"
    try:
        fixed_schema(found.schema)
    except BadPredictions as error:
        raise AssertionError(str(error)) from error
    return found.column_names, rows


def _predicted(
    caller: Caller, table: pa.Table, kind: BatchKind, *, pieces: int = 1
) -> tuple[pa.Table | None, list[Any]]:
    """The predictions as a table, and for each row of the batch its predictions; `None` where it is rejected."""
    import pyarrow as pa

    good, rejected = list[Any](), set[int]()
    for each in Predicting(caller, table.column_names, kind, None, pieces=pieces).attempt(table):
        if isinstance(each, Failed):
            raise AssertionError(
                f"the predictor must predict the batch: {exceptions.describe(each.error)}"
            ) from each.error
        if isinstance(each, Good):
            good.append(each.result)
        else:
            rejected.add(each.row)
    found = pa.concat_tables(good, promote_options="permissive") if good else None
    values = iter([] if found is None else found.to_pylist())
    return found, [None if row in rejected else next(values) for row in range(table.num_rows)]


def _check_input_kept(predictor: Predictor, table: pa.Table, kind: BatchKind) -> None:
    given = to_input(table, kind)
    before = _shown(given, table.num_rows)
    LocalCaller(predictor)([given])
    assert _shown(given, table.num_rows) == before, "the predictor must not change its batch: let it change a copy"


def _shown(given: Any, rows: int) -> str:
    table = to_table(given, rows)
    return f"{table.schema} {table.to_pylist()}"


def _check_empty(predictor: Predictor, table: pa.Table, kind: BatchKind, names: Sequence[str]) -> None:
    """A batch without rows gives predictions without rows, or any error."""
    for each in Predicting(LocalCaller(predictor), table.column_names, kind, None).attempt(table.slice(0, 0)):
        wrong = isinstance(each, Failed) and isinstance(each.error, BadPredictions)
        assert not wrong, f"an empty batch must give empty predictions, or raise: {each}"
        if isinstance(each, Good):
            found: Any = each.result
            assert found.column_names == names, (
                f"an empty batch must give the columns that others give, {names}, or raise: {found.column_names}"
            )


def _check_pickled(load: Callable[[], Predictor]) -> Predictor:
    try:
        parcel = Shipper(load, on_driver=True).packed()
    except ConfigError as error:
        raise AssertionError(f"{error}; then give this check load_on='worker'") from error
    predictor: Predictor = parcel.unpack().held
    return predictor


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
