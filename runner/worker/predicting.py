"""The rows of one shard on their way through the predictor, and whose fault it is when they do not get through."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runner.arrow.batches import rebatch, to_input, to_table
from runner.arrow.isolate import Good, Guilty, bisect
from runner.arrow.labels import aligned
from runner.arrow.schemas import BadPredictions, DoesNotFit, conform
from runner.errors import ConfigError
from runner.ledger.quarantine import BadRow, Budget, unreadable
from runner.predictor.child import ProcessDied, Unloadable
from runner.process.signals import raise_as_error
from runner.storage.locations import is_skipped
from runner.storage.transience import is_transient
from runner.types import BatchKind, FailureKind, Fragment, Predictor, Reader, Unreadable
from runner.words import exceptions
from runner.worker.columns import WrongColumns, mismatch

if TYPE_CHECKING:
    import pyarrow as pa


DEATHS = 3  # of its process in a row, before a row is to blame
NAMED = 3  # bad rows that a refusal tells in words


class Trouble(Exception):
    """A failure on its way out of the streaming generators, already told for people."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        """Say what kind of failure, and what to show."""
        super().__init__(message)
        self.kind: FailureKind = kind


def without(fragments: Sequence[Fragment], skip: Sequence[str]) -> list[Fragment]:
    """The fragments of files that none of the paths or patterns names."""
    return [fragment for fragment in fragments if not is_skipped(fragment.input.name, skip)]


def told(error: BaseException) -> str:
    """An error in one line, without credentials; our own need no type."""
    if isinstance(error, BadPredictions | DoesNotFit | ConfigError):
        return exceptions.fit(str(error))
    return exceptions.told(error)


class Rows:
    """The batches of a shard; remembers which fragment each row came from.

    Attributes:
        seconds: Spent waiting for what is read.
        unreadable: The rows that could not be parsed, so far.
    """

    def __init__(
        self,
        reader: Reader,
        read: Callable[[Fragment], Iterator[pa.Table | Unreadable]],
        fragments: Sequence[Fragment],
        batch_size: int,
        budget: Budget | None = None,
    ) -> None:
        """Take who knows the rows' places, what gives the tables of a fragment, how many rows make a batch, and how many may be bad."""
        self.seconds = 0.0
        self.unreadable: list[BadRow] = []
        self._budget = budget
        self._reader, self._read, self._fragments, self._batch_size = reader, read, fragments, batch_size
        self._counts: list[int] = []
        self._placed: _Placed | None = None
        self._placing = threading.Lock()  # the predictor's thread and the writer's ask for places

    def batches(self) -> Iterator[pa.Table]:
        """Yield batches, counted from the shard's start.

        Raises:
            Trouble: A fragment cannot be read, or too many of its rows cannot be parsed.
        """
        batches = rebatch(self._tables(), self._batch_size)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def _tables(self) -> Iterator[pa.Table]:
        for fragment in self._fragments:
            self._counts.append(0)
            try:
                for table in self._read(fragment):
                    if isinstance(table, Unreadable):
                        self._put_aside(unreadable(fragment, table))
                        continue
                    self._counts[-1] += table.num_rows
                    yield table
            except Trouble:
                raise
            except Exception as error:
                _raise_unreadable(fragment, error)

    def _put_aside(self, row: BadRow) -> None:
        self.unreadable.append(row)
        bad, seen = len(self.unreadable), sum(self._counts) + len(self.unreadable)
        if self._budget is None or self._budget.passed(bad, seen):
            first = "; ".join(each.told() for each in self.unreadable[:NAMED])
            raise Trouble("data", first if self._budget is None else f"{self._budget.told(bad, seen)}: {first}")

    def place(self, row: int) -> tuple[Fragment, int]:
        """The fragment that a row of the shard came from, and its number within the file."""
        for fragment, count in zip(self._fragments, self._counts, strict=False):
            if row < count:
                with self._placing:
                    return fragment, self._number(fragment, row)
            row -= count
        raise IndexError(row)

    def _number(self, fragment: Fragment, row: int) -> int:
        """The number within its file of a row of a fragment.

        Bad rows are mostly asked for in their order. The file is read on from the one before, since reading it anew for each of a
        thousand bad rows would cost more than predicting them.
        """
        before, self._placed = self._placed, None  # of no use any more if reading fails
        if before is None or before.fragment is not fragment or before.next > row:
            before = _Placed(fragment, 0, iter(self._reader.positions(fragment)))
        number = next(islice(before.numbers, row - before.next, None))
        self._placed = _Placed(fragment, row + 1, before.numbers)
        return number

    def where_from(self, start: int) -> Callable[[int], str]:
        """What tells the place of a row for people, the row counted from row `start` of the shard."""

        def where(row: int) -> str:
            fragment, number = self.place(start + row)
            return f"{fragment.input.name} row {number}"

        return where


class _Placed(NamedTuple):
    """How far the places of a fragment's rows were asked for.

    Attributes:
        fragment: The one.
        next: Its first row that was not asked for.
        numbers: Those of this row and of all that follow, within the file.
    """

    fragment: Fragment
    next: int
    numbers: Iterator[int]


def _raise_unreadable(fragment: Fragment, error: Exception) -> NoReturn:
    refused: FailureKind = "storage" if isinstance(error, PermissionError) else "data"
    kind: FailureKind = "transient" if is_transient(error) else refused
    gone = " (gone since it was listed)" if isinstance(error, FileNotFoundError) else ""
    raise Trouble(kind, f"{fragment.input.name} cannot be read{gone}: {told(error)}") from error


@dataclass
class Most:
    """What memory allows in this process.

    Attributes:
        rows: At most so many go to the predictor at once.
        halved: How often that number was halved, since somebody asked.
    """

    rows: int = sys.maxsize
    halved: int = 0

    def halve(self, rows: int) -> None:
        """So many rows were too much; what they left on a GPU is let go."""
        self.rows, self.halved = max(1, rows // 2), self.halved + 1
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def asked(self) -> int:
        """How often it was halved since the last time somebody asked."""
        count, self.halved = self.halved, 0
        return count


_most: dict[str, Most] = {}


def most_in(run: str) -> Most:
    """What this process has learnt about memory in a run, kept from call to call."""
    if run not in _most:
        _most.clear()  # another job of the sweep is over
        _most[run] = Most()
    return _most[run]


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, NumPy's and Arrow's `MemoryError`, torch's of a GPU, and of the CPU."""
    kind = type(error).__name__
    return isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


class Predicting:
    """Calls the predictor, and answers for what it returns.

    Attributes:
        seconds: Spent in the predictor.
        most: How much it is given at once.
    """

    def __init__(
        self,
        predictor: Predictor,
        columns: list[str],
        kind: BatchKind,
        schema: pa.Schema | None,
        *,
        pieces: int = 1,
        refuse_nan: bool = False,
        most: Most | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Take the predictor, what it is given, and the schema its predictions are held to, once that is fixed."""
        self.seconds = 0.0
        self.most = most or Most()
        self._predictor, self._columns, self._kind, self._schema = predictor, columns, kind, schema
        self._pieces, self._refuse_nan = pieces, refuse_nan
        self._names = [(rename or {}).get(name, name) for name in columns]
        self._proven = False  # whether the predictor has taken these columns, or has failed for another reason

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The predictions of a batch, one row each, in the fixed schema; as the model types them while there is none.

        What takes too much memory is halved, and the smaller size kept, unless a single row is to blame.
        """
        import pyarrow as pa

        wanted, before = -(-batch.num_rows // self._pieces), self.most.rows
        pieces: list[pa.Table] = []
        start = 0
        while start < batch.num_rows or not pieces:
            piece = batch.slice(start, min(wanted, self.most.rows))
            try:
                pieces.append(self._predict(piece))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if piece.num_rows <= 1:
                    self.most.rows = before
                    raise
                self.most.halve(piece.num_rows)
            else:
                start += piece.num_rows
        return pa.concat_tables(pieces, promote_options="permissive")  # as the model types them, pieces may differ

    def _predict(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        given = self._input(batch)
        try:
            predictions = self._predictor(given)
        except BaseException as error:
            if isinstance(error, Exception):
                self._raise_for_columns(error, batch)
            raise_as_error(error, "the predictor")
        finally:
            self.seconds += time.perf_counter() - started
        self._proven = True
        return self.hold(to_table(aligned(predictions, batch, given), batch.num_rows))

    def hold(self, table: pa.Table) -> pa.Table:
        """Predictions in the fixed schema, if there is one.

        Raises:
            BadPredictions, DoesNotFit, NotANumber: They are not what is expected.
        """
        typed = table if self._schema is None else conform(table, self._schema)
        if self._refuse_nan:
            _raise_for_nan(typed)
        return typed

    def _input(self, batch: pa.Table) -> Any:
        return to_input(batch.select(self._columns).rename_columns(self._names), self._kind)

    def _raise_for_columns(self, error: Exception, batch: pa.Table) -> None:
        """Columns that the model does not know are no row's fault; once it has taken them, this is not asked again."""
        if self._proven:
            return
        self._proven = True
        wanted = getattr(self._predictor, "columns", None)
        names = wanted if isinstance(wanted, list) else None
        if told := mismatch(error, self._names, names, lambda: self._predictor(self._input(batch.slice(0, 0)))):
            self._proven = False
            raise WrongColumns(told) from error


class NotANumber(ValueError):
    """A prediction is NaN (or null, which is what pandas makes of one)."""


def _raise_for_nan(table: pa.Table) -> None:
    for name, column in zip(table.column_names, table.columns, strict=True):
        if any(_has_nan(chunk) for chunk in column.chunks):
            raise NotANumber(f"prediction {name!r} is NaN")


def _has_nan(values: pa.Array) -> bool:
    """Whether a fraction is NaN or null, however deep it lies; what a null list, map or struct holds is not looked at."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = values.type
    if pa.types.is_struct(kind):
        present = values.drop_null() if values.null_count else values
        return any(_has_nan(field) for field in present.flatten())
    if pa.types.is_map(kind):
        pairs = pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)]))
        return _has_nan(values.cast(pairs))
    if pa.types.is_nested(kind) and kind.num_fields == 1:
        return _has_nan(pc.list_flatten(values))
    return pa.types.is_floating(kind) and bool(pc.any(pc.is_null(values, nan_is_null=True)).as_py())


class Sifted(NamedTuple):
    """A batch after the predictor: its good rows, their predictions, and the bad rows with their numbers within the batch."""

    batch: pa.Table
    predictions: Any
    bad: list[Guilty]


Attempt = Callable[["pa.Table"], "pa.Table"]
Allowed = Callable[[Sequence[Guilty]], None]


def sift(batch: pa.Table, attempt: Attempt, allowed: Allowed | None, where: Callable[[int], str]) -> Sifted:
    """Predict a batch; where it fails, find the guilty rows.

    Args:
        batch: At least one row.
        attempt: The predictor's answer for some rows.
        allowed: Is shown the bad rows so far, and raises when they are too many; `None` allows none.
        where: Tells a row of the batch for people.

    Raises:
        Trouble: A bad row where none is allowed, a broken model, or a transient error.
    """
    sure = _surely(attempt)
    try:
        return Sifted(batch, sure(batch), [])
    except Exception as error:
        _raise_unless_bad_rows(error, where)
        failed = error
    found = bisect(batch.num_rows, lambda start, end: sure(batch.slice(start, end - start)), failed)
    return _collected(batch, found, failed, allowed, where)


def _surely(attempt: Attempt) -> Attempt:
    """The same, but a row alone is only to blame for its process's death if that happens again: somebody else may have killed it."""

    def tried(rows: pa.Table) -> pa.Table:
        for _ in range(DEATHS - 1):
            try:
                return attempt(rows)
            except ProcessDied:
                if rows.num_rows > 1:
                    raise
        return attempt(rows)

    return tried


def _collected(
    batch: pa.Table,
    found: Iterator[Good | Guilty],
    error: Exception,
    allowed: Allowed | None,
    where: Callable[[int], str],
) -> Sifted:
    import pyarrow as pa

    good, bad = [], []
    for each in found:
        if isinstance(each, Good):
            good.append(each)
            continue
        _raise_unless_bad_rows(each.error, where)
        if allowed is None:
            raise Trouble("data", f"{where(each.row)}: {told(each.error)}") from each.error
        bad.append(each)
        allowed(bad)
    if not bad and allowed is None and not _is_passing(error):
        raise Trouble("model", f"a batch of {batch.num_rows} rows from {where(0)} fails: {told(error)}") from error
    rows = [batch.slice(each.start, each.end - each.start) for each in good]
    results = [each.result for each in good]
    together = pa.concat_tables(results, promote_options="permissive") if results else None  # types may differ, too
    return Sifted(pa.concat_tables(rows) if rows else batch.slice(0, 0), together, bad)


def _is_passing(error: Exception) -> bool:
    """Whether no row need be to blame: a batch was only too much at once, or somebody else killed the predictor's process."""
    return isinstance(error, ProcessDied) or is_out_of_memory(error)


def _raise_unless_bad_rows(error: Exception, where: Callable[[int], str]) -> None:
    """A model that breaks the contract is its own fault, an unreachable service nobody's: no row is to blame."""
    if isinstance(error, BadPredictions):
        raise Trouble("model", f"{told(error)} (rows from {where(0)})") from error
    if isinstance(error, WrongColumns):
        raise Trouble("model", str(error)) from error
    if isinstance(error, Unloadable):
        raise Trouble("model", str(error)) from error.__cause__
    if is_transient(error):
        raise Trouble("transient", f"the predictor: {told(error)} (rows from {where(0)})") from error


def bad_rows(rows: Rows, start: int, guilty: list[Guilty]) -> list[BadRow]:
    """The guilty rows of a batch that starts at row `start` of its shard, with their places."""
    return [BadRow(*rows.place(start + each.row), each.error) for each in guilty]


def allowance(budget: Budget, before: int, seen: int, where: Callable[[int], str]) -> Allowed:
    """What refuses too many bad rows in a batch, after `before` bad rows among `seen`, and names the first."""

    def check(bad: Sequence[Guilty]) -> None:
        count = before + len(bad)
        if budget.passed(count, seen):
            first = "; ".join(f"{where(each.row)}: {told(each.error)}" for each in bad[:NAMED])
            raise Trouble("data", f"{budget.told(count, seen)}: {first}")

    return check
