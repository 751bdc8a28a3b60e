"""The rows of one shard on their way through the predictor, and whose fault it is when they do not get through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from runner.batches import BadPredictions, DoesNotFit, conform, rebatch, to_input, to_table
from runner.child import ProcessDied
from runner.errors import ConfigError
from runner.isolate import Good, Guilty, bisect
from runner.planning import is_skipped
from runner.quarantine import BadRow, Budget
from runner.transience import is_transient
from runner.types import FailureKind, Fragment, Input, Predictor, Reader

if TYPE_CHECKING:
    import pyarrow as pa


class Trouble(Exception):
    """A failure on its way out of the streaming generators, already told for people."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        """Say what kind of failure, and what to show."""
        super().__init__(message)
        self.kind: FailureKind = kind


def without(fragments: Sequence[Fragment], skip: Sequence[str]) -> list[Fragment]:
    """The fragments of files that none of the paths or patterns names."""
    return [fragment for fragment in fragments if not is_skipped(fragment.file.path, skip)]


def told(error: BaseException) -> str:
    """An error in one line; our own need no type."""
    if isinstance(error, BadPredictions | DoesNotFit | ConfigError):
        return str(error)
    return f"{type(error).__name__}: {error}"


class Rows:
    """The batches of a shard; remembers which fragment each row came from.

    Attributes:
        seconds: Spent reading.
    """

    def __init__(self, reader: Reader, columns: list[str], batch_size: int, fragments: Sequence[Fragment]) -> None:
        """Take what is read, and how much at a time."""
        self.seconds = 0.0
        self._reader, self._columns, self._batch_size, self._fragments = reader, columns, batch_size, fragments
        self._counts: list[int] = []

    def batches(self) -> Iterator[pa.Table]:
        """Yield batches, counted from the shard's start.

        Raises:
            Trouble: A fragment cannot be read.
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
                for table in self._reader.read(fragment, self._columns):
                    self._counts[-1] += table.num_rows
                    yield table
            except Exception as error:
                _raise_unreadable(fragment, error)

    def place(self, row: int) -> tuple[Fragment, int]:
        """The fragment that a row of the shard came from, and its number within the file."""
        for fragment, count in zip(self._fragments, self._counts, strict=False):
            if row < count:
                return fragment, next(islice(self._reader.positions(fragment), row, None))
            row -= count
        raise IndexError(row)

    def where_from(self, start: int) -> Callable[[int], str]:
        """What tells the place of a row for people, the row counted from row `start` of the shard."""

        def where(row: int) -> str:
            fragment, number = self.place(start + row)
            return f"{fragment.file.path} row {number}"

        return where


def _raise_unreadable(fragment: Fragment, error: Exception) -> NoReturn:
    refused: FailureKind = "storage" if isinstance(error, PermissionError) else "data"
    kind: FailureKind = "transient" if is_transient(error) else refused
    gone = " (gone since it was listed)" if isinstance(error, FileNotFoundError) else ""
    raise Trouble(kind, f"{fragment.file.path} cannot be read{gone}: {told(error)}") from error


class Predicting:
    """Calls the predictor, and answers for what it returns.

    Attributes:
        seconds: Spent in the predictor.
    """

    def __init__(
        self,
        predictor: Predictor,
        columns: list[str],
        kind: Input,
        schema: pa.Schema | None,
        *,
        pieces: int = 1,
        refuse_nan: bool = False,
    ) -> None:
        """Take the predictor, what it is given, and the schema its predictions are held to, once that is fixed."""
        self.seconds = 0.0
        self._predictor, self._columns, self._kind, self._schema = predictor, columns, kind, schema
        self._pieces, self._refuse_nan = pieces, refuse_nan

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The predictions of a batch, one row each, in the fixed schema; as the model types them while there is none."""
        import pyarrow as pa

        rows = max(1, -(-batch.num_rows // self._pieces))
        starts = range(0, max(1, batch.num_rows), rows)
        return pa.concat_tables([self._predict(batch.slice(start, rows)) for start in starts])

    def _predict(self, batch: pa.Table) -> pa.Table:
        started = time.perf_counter()
        try:
            predictions = self._predictor(to_input(batch.select(self._columns), self._kind))
        except SystemExit as left:
            raise RuntimeError(
                f"the predictor called sys.exit({left.code})"
            ) from left  # in this process, it would end the job
        finally:
            self.seconds += time.perf_counter() - started
        table = to_table(predictions, batch.num_rows)
        typed = table if self._schema is None else conform(table, self._schema)
        if self._refuse_nan:
            _raise_for_nan(typed)
        return typed


class NotANumber(ValueError):
    """A prediction is NaN (or null, which is what pandas makes of one)."""


def _raise_for_nan(table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column
        while pa.types.is_nested(values.type) and not pa.types.is_struct(values.type):
            values = pc.list_flatten(values)
        if pa.types.is_floating(values.type) and pc.any(pc.is_null(values, nan_is_null=True)).as_py():
            raise NotANumber(f"prediction {name!r} is NaN")


class Sifted(NamedTuple):
    """A batch after the predictor: its good rows, their predictions, and the bad rows with their numbers within the batch."""

    batch: pa.Table
    predictions: pa.Table
    bad: list[Guilty]


Attempt = Callable[["pa.Table"], "pa.Table"]


def sift(
    batch: pa.Table, attempt: Attempt, allowed: Callable[[int], None] | None, where: Callable[[int], str]
) -> Sifted:
    """Predict a batch; where it fails, find the guilty rows.

    Args:
        batch: At least one row.
        attempt: The predictor's answer for some rows.
        allowed: Is told how many bad rows there are so far, and raises when they are too many; `None` allows none.
        where: Tells a row of the batch for people.

    Raises:
        Trouble: A bad row where none is allowed, a broken model, or a transient error.
    """
    try:
        return Sifted(batch, attempt(batch), [])
    except Exception as error:
        _raise_unless_bad_rows(error, where)
        found = bisect(batch.num_rows, lambda start, end: attempt(batch.slice(start, end - start)), error)
        return _collected(batch, found, error, allowed, where)


def _collected(
    batch: pa.Table,
    found: Iterator[Good | Guilty],
    error: Exception,
    allowed: Callable[[int], None] | None,
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
        allowed(len(bad))
    if not bad and allowed is None and not _is_passing(error):
        raise Trouble("model", f"a batch of {batch.num_rows} rows from {where(0)} fails: {told(error)}") from error
    rows = [batch.slice(each.start, each.end - each.start) for each in good]
    results = [each.result for each in good]
    return Sifted(
        pa.concat_tables(rows) if rows else batch.slice(0, 0), pa.concat_tables(results) if results else None, bad
    )


def _is_passing(error: Exception) -> bool:
    """Whether no row need be to blame: a batch was only too much at once, or somebody else killed the predictor's process."""
    return (
        isinstance(error, MemoryError | ProcessDied) or type(error).__name__ == "OutOfMemoryError"
    )  # torch's, of CUDA


def _raise_unless_bad_rows(error: Exception, where: Callable[[int], str]) -> None:
    """A model that breaks the contract is its own fault, an unreachable service nobody's: no row is to blame."""
    if isinstance(error, BadPredictions):
        raise Trouble("model", f"{told(error)} (rows from {where(0)})") from error
    if is_transient(error):
        raise Trouble("transient", f"the predictor: {told(error)} (rows from {where(0)})") from error


def bad_rows(rows: Rows, start: int, guilty: list[Guilty]) -> list[BadRow]:
    """The guilty rows of a batch that starts at row `start` of its shard, with their places."""
    return [BadRow(*rows.place(start + each.row), each.error) for each in guilty]


def allowance(budget: Budget, before: int, seen: int) -> Callable[[int], None]:
    """What refuses too many bad rows in a batch, after `before` bad rows among `seen`."""

    def check(bad: int) -> None:
        if budget.passed(before + bad, seen):
            raise Trouble("data", budget.told(before + bad, seen))

    return check
