"""Predict some shards in a worker, one after the other: each is read, predicted, written and committed by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial

from runner.process.overlap import ReadAhead
from runner.storage.locations import is_local
from runner.types import Answer, Fragment, Model, Outcome, Reader, Shard
from runner.words.secrets import learn
from runner.worker.care import CARELESS, Care
from runner.worker.holding import held
from runner.worker.shard_run import ShardRun
from runner.worker.trouble import Trouble, failure_of
from runner.worker.work_order import WorkOrder

SEVERAL_READERS = 4  # fragments that are read at once where each request takes its time, or each takes work
WRITERS = 4  # parts that are being written at once
LEAVING_SECONDS = 5.0  # that a stop leaves for taking back what was begun


@dataclass(frozen=True)
class PredictShards:
    """Predict these shards, each committed by itself.

    Attributes:
        order: How.
        shards: In this order.
        care: What earlier tries have taught.
    """

    order: WorkOrder
    shards: tuple[Shard, ...]
    care: Care = CARELESS

    def run(self, model: Model) -> Answer:
        """Return a receipt or a failure for each shard, in their order."""
        learn(self.order.secrets)
        fragments = [fragment for shard in self.shards for fragment in self.order.fragments(shard)]
        sources = {fragment: partial(self.order.read, fragment) for fragment in fragments}
        threads = threads_for(self.order.reader, fragments)
        ahead = max((fragments_of(self.order.batch_size, shard.fragments) for shard in self.shards), default=1)
        try:
            with held(model, self.care) as caller, ReadAhead(sources, threads, ahead) as reading:
                predicting = self.order.predicting(caller, self.care.pieces)
                return self._outcomes(ShardRun(self.order, shard, predicting, reading.take) for shard in self.shards)
        except Trouble as error:
            return [failure_of(shard, error) for shard in self.shards]

    def _outcomes(self, runs: Iterable[ShardRun]) -> list[Outcome]:
        """Predict one shard after the other, while those before are still being written."""
        outcomes: list[Outcome] = []
        writing: deque[ShardRun] = deque()
        try:
            for run in runs:
                if len(writing) == WRITERS:
                    outcomes.append(writing.popleft().outcome())
                writing.append(run)
                run.predict()
        except BaseException:
            wait([run.written for run in writing], LEAVING_SECONDS)  # what was begun is taken back
            raise
        return [*outcomes, *(run.outcome() for run in writing)]


def threads_for(reader: Reader, fragments: Sequence[Fragment]) -> int:
    """How many threads read: one keeps a local disk busy, several hide the latency of a network, and share the work of decoding."""
    alone = all(is_local(fragment.input.name) for fragment in fragments) and not getattr(reader, "busy", False)
    return 1 if alone else SEVERAL_READERS


def fragments_of(rows: int, fragments: Sequence[Fragment]) -> int:
    """How many of a shard's fragments hold so many rows on average; 1 where that is not known.

    That many are read ahead of the predictor. Pictures are one row each: if fewer were decoded while it predicts a batch, it would have
    to wait for the rest of the next batch.
    """
    held = sum(fragment.rows or 0 for fragment in fragments)
    known = all(fragment.rows is not None for fragment in fragments)
    return min(len(fragments), -(-rows * len(fragments) // held)) if known and held else 1
