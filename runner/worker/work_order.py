"""How every shard of a job is predicted: what a worker is told beside the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runner.ledger.quarantine import Budget
from runner.storage.publishing import TakenOver
from runner.types import BatchKind, Caller, Fragment, Reader, Seal, Shard, Sink, Unreadable
from runner.worker.memory import limit_in
from runner.worker.predicting import Predicting
from runner.worker.rows import Rows, not_skipped

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class WorkOrder:
    """How every shard of a job is predicted.

    Attributes:
        reader: Reads fragments.
        sink: Publishes parts.
        source: Schema of what the reader offers.
        input: The form in which the predictor is given a batch.
        columns: The columns the predictor gets.
        keep: The columns that go with the predictions.
        batch_size: Rows per call of the predictor.
        rename: Input columns that the predictor gets under another name.
        budget: How many rows may go to quarantine. `None`: the first bad row fails its shard.
        skip: Paths or patterns of files that are left out.
        refuse_nan: Whether a NaN makes its row bad.
        predictions: Schema of the predictions; `None` until a probe fixed it.
        run: The id of the run. It names what a worker process keeps from call to call, and the files of first batches.
        kept: Ids of the shards whose first batches have been predicted already, and lie in a file.
        secrets: Credentials that no text from the worker may hold.
        seal: What the sink holds as long as it belongs to this job. `None` where nothing is published.
    """

    reader: Reader
    sink: Sink
    source: pa.Schema
    input: BatchKind
    columns: list[str]
    keep: list[str]
    batch_size: int
    budget: Budget | None = None
    skip: tuple[str, ...] = ()
    refuse_nan: bool = False
    predictions: pa.Schema | None = None
    run: str = ""
    kept: frozenset[str] = frozenset()
    rename: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    seal: Seal | None = None

    def fragments(self, shard: Shard) -> list[Fragment]:
        """The fragments of a shard that are read."""
        return not_skipped(shard.fragments, self.skip)

    def read(self, fragment: Fragment) -> Iterator[pa.Table | Unreadable]:
        """The fragment's tables."""
        return self.reader.read(fragment, self.reads)

    def rows(self, shard: Shard, read: Callable[[Fragment], Iterator[pa.Table | Unreadable]]) -> Rows:
        """The batches of a shard, made of the tables that `read` yields for its fragments."""
        return Rows(self.reader, read, self.fragments(shard), self.batch_size, self.budget)

    def refuse_lost_sink(self) -> None:
        """Refuse to publish what was predicted if the sink belongs to another job by now.

        Raises:
            TakenOver: It has.
        """
        store = self.sink.records
        if self.seal is not None and not store.holds(self.seal):
            raise TakenOver(
                f"{store.place}: {self.seal.name} is not the one that this run began with: another run has taken the sink over"
            )

    def predicting(self, caller: Caller, pieces: int = 1) -> Predicting:
        """What calls the predictor, with each batch in this many pieces, and holds predictions to the output schema if that is fixed."""
        return Predicting(
            caller, self.columns, self.input, self.predictions,
            pieces=pieces, refuse_nan=self.refuse_nan, limit=limit_in(self.run), rename=self.rename,
        )  # fmt: skip

    @property
    def reads(self) -> list[str]:
        """The names of all columns that are read, each once."""
        return list(dict.fromkeys([*self.columns, *self.keep]))

    @property
    def part_schema(self) -> pa.Schema:
        """The schema of every part: kept columns first, then the predictions."""
        import pyarrow as pa

        assert self.predictions is not None
        return pa.schema([*(self.source.field(name).remove_metadata() for name in self.keep), *self.predictions])
