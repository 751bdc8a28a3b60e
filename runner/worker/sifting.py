"""A batch that fails: its bad rows are found, and its good rows keep their predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runner.arrow.isolate import Failed, Good, Guilty, Tried, isolate, without
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
    """A batch after the predictor.

    Attributes:
        batch: Its good rows.
        predictions: A table of their predictions; `None` where no row is good.
        bad: The bad rows, with their numbers within the whole batch.
    """

    batch: pa.Table
    predictions: Any
    bad: list[Guilty]

    def also_without(self, refused: Mapping[int, Exception], rows: int) -> Sifted:
        """The same without some of its good rows, which are bad as well.

        Args:
            refused: By their number among the good rows, each with its error.
            rows: Of the whole batch.
        """
        bad = {each.row for each in self.bad}
        good = [row for row in range(rows) if row not in bad]
        among = [Guilty(row, error) for row, error in refused.items()]
        whole = [Guilty(good[row], error) for row, error in refused.items()]
        together = sorted([*self.bad, *whole], key=lambda each: each.row)
        return Sifted(without(self.batch, among), without(self.predictions, among), together)


Attempt = Callable[["pa.Table"], Iterable[Tried]]
Allowed = Callable[[Sequence[Guilty]], None]


def sift(batch: pa.Table, attempt: Attempt, allowed: Allowed | None, where: Callable[[int], str]) -> Sifted:
    """Predict a batch; of what fails, find the guilty rows.

    Args:
        batch: At least one row.
        attempt: Predicts some rows, and tells what came of them.
        allowed: Is shown the bad rows so far, and raises when they are too many; `None` allows none.
        where: The place of a row of the batch, for people.

    Raises:
        Trouble: A bad row where none is allowed, a broken model, or a transient error.
    """
    failed, results, bad = list[Failed](), list[Any](), list[Guilty]()

    def tried(start: int, end: int) -> Iterator[Tried]:
        for each in _surely(attempt, batch.slice(start, end - start)):
            moved = each.moved(start)
            if isinstance(moved, Failed):
                _raise_unless_bad_rows(moved, where)
                failed.append(moved)
            yield moved

    for each in isolate(0, batch.num_rows, tried):
        if isinstance(each, Good):
            results.append(each.result)
            continue
        bad.append(each)
        hold_to(allowed, bad, where)
    if allowed is None and (unexplained := [each for each in failed if not _is_passing(each.error)]):
        _raise_for_no_row(unexplained[0], where)
    return Sifted(without(batch, bad), _together(results), bad)


def hold_to(allowed: Allowed | None, bad: Sequence[Guilty], where: Callable[[int], str]) -> None:
    """Go on if so many bad rows are allowed.

    Raises:
        Trouble: They are not.
    """
    if allowed is None:
        raise Trouble("data", f"{where(bad[0].row)}: {in_one_line(bad[0].error)}") from bad[0].error
    allowed(bad)


def _together(results: Sequence[Any]) -> Any:
    """One table; pieces may differ in type where the model chooses it."""
    import pyarrow as pa

    return pa.concat_tables(results, promote_options="permissive") if results else None


def _surely(attempt: Attempt, rows: pa.Table) -> Iterable[Tried]:
    """What came of some rows. A row alone is to blame for its process's death if that happens again: somebody else may have killed it."""
    if rows.num_rows > 1:
        return attempt(rows)
    for _ in range(DEATHS):
        found = list(attempt(rows))
        if not any(isinstance(each, Failed) and isinstance(each.error, ProcessDied) for each in found):
            break
    return found


def _raise_for_no_row(failed: Failed, where: Callable[[int], str]) -> NoReturn:
    rows = failed.end - failed.start
    raise Trouble(
        "model", f"a batch of {rows} rows from {where(failed.start)} fails: {in_one_line(failed.error)}"
    ) from failed.error


def _is_passing(error: Exception) -> bool:
    """Whether perhaps no row is to blame: the batch took too much memory, or somebody else killed the predictor's process."""
    return isinstance(error, ProcessDied) or is_out_of_memory(error)


def _raise_unless_bad_rows(failed: Failed, where: Callable[[int], str]) -> None:
    """Where no row can be to blame, say who is: a model that breaks its contract, or a service that cannot be reached."""
    error = failed.error
    if isinstance(error, BadPredictions):
        raise Trouble("model", f"{in_one_line(error)} (rows from {where(failed.start)})") from error
    if isinstance(error, WrongColumns):
        raise Trouble("model", str(error)) from error
    if isinstance(error, Unloadable):
        raise Trouble("model", str(error)) from error.__cause__
    if is_transient(error):
        raise Trouble("transient", f"the predictor: {in_one_line(error)} (rows from {where(failed.start)})") from error


def bad_rows(rows: Rows, start: int, guilty: list[Guilty]) -> list[BadRow]:
    """The guilty rows of a batch that starts at row `start` of its shard, with their places."""
    return [BadRow(*rows.place(start + each.row), each.error) for each in guilty]


def allowance(budget: Budget, before: int, seen: int, where: Callable[[int], str]) -> Allowed:
    """Returns what refuses too many bad rows in a batch, and names the first; `before` it there were so many among `seen` rows."""

    def refuse_too_many(bad: Sequence[Guilty]) -> None:
        count = before + len(bad)
        if budget.passed(count, seen):
            first = "; ".join(f"{where(each.row)}: {in_one_line(each.error)}" for each in bad[:SHOWN_ROWS])
            raise Trouble("data", f"{budget.arithmetic(count, seen)}: {first}")

    return refuse_too_many
