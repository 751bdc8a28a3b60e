"""A batch that fails: its bad rows are found, and its good rows keep their predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from runner.arrow.isolate import Good, Guilty, bisect
from runner.arrow.schemas import BadPredictions
from runner.ledger.quarantine import BadRow, Budget
from runner.predictor.child import ProcessDied, Unloadable
from runner.storage.transience import is_transient
from runner.worker.columns import WrongColumns
from runner.worker.memory import is_out_of_memory
from runner.worker.rows import SHOWN_ROWS, Rows
from runner.worker.trouble import Trouble, in_one_line

if TYPE_CHECKING:
    import pyarrow as pa

DEATHS = 3  # of its process in a row, before a row is to blame


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
            raise Trouble("data", f"{where(each.row)}: {in_one_line(each.error)}") from each.error
        bad.append(each)
        allowed(bad)
    if not bad and allowed is None and not _is_passing(error):
        raise Trouble(
            "model", f"a batch of {batch.num_rows} rows from {where(0)} fails: {in_one_line(error)}"
        ) from error
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
        raise Trouble("model", f"{in_one_line(error)} (rows from {where(0)})") from error
    if isinstance(error, WrongColumns):
        raise Trouble("model", str(error)) from error
    if isinstance(error, Unloadable):
        raise Trouble("model", str(error)) from error.__cause__
    if is_transient(error):
        raise Trouble("transient", f"the predictor: {in_one_line(error)} (rows from {where(0)})") from error


def bad_rows(rows: Rows, start: int, guilty: list[Guilty]) -> list[BadRow]:
    """The guilty rows of a batch that starts at row `start` of its shard, with their places."""
    return [BadRow(*rows.place(start + each.row), each.error) for each in guilty]


def allowance(budget: Budget, before: int, seen: int, where: Callable[[int], str]) -> Allowed:
    """What refuses too many bad rows in a batch, after `before` bad rows among `seen`, and names the first."""

    def check(bad: Sequence[Guilty]) -> None:
        count = before + len(bad)
        if budget.passed(count, seen):
            first = "; ".join(f"{where(each.row)}: {in_one_line(each.error)}" for each in bad[:SHOWN_ROWS])
            raise Trouble("data", f"{budget.told(count, seen)}: {first}")

    return check
