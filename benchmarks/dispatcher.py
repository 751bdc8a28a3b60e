"""At which shard rate is the driver the bottleneck? The real dispatcher, account and ledger, with imagined workers.

python benchmarks/dispatcher.py
python benchmarks/dispatcher.py --workers 8000 --shards 1000,10000,100000 --seconds 0.2 --transient 0.01 --lost 0.001

The clock is the driver's own CPU time, plus whatever it would have waited for workers: while the driver is busy, workers finish.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from runner.driver.account import Account  # noqa: E402
from runner.driver.dispatch import Dispatcher  # noqa: E402
from runner.driver.job import Job  # noqa: E402
from runner.driver.planning import execution_order, make_shards  # noqa: E402
from runner.driver.progress import Progress  # noqa: E402
from runner.driver.record import new_report  # noqa: E402
from runner.ledger.ledger import Ledger  # noqa: E402
from runner.ledger.recipe import Recorded  # noqa: E402
from runner.sinks.files import Files as Sink  # noqa: E402
from runner.sources.files import Files as Source  # noqa: E402
from runner.types import (  # noqa: E402
    Done,
    Errors,
    Failure,
    Fragment,
    Input,
    Loader,
    Lost,
    Outcome,
    Receipt,
    Shard,
    Stages,
)
from runner.worker.care import Care  # noqa: E402

SHARD_BYTES = 1024**2


@dataclass(frozen=True)
class Trouble:
    """How often what goes wrong.

    Attributes:
        transient: Fraction of shards whose try meets a storage error that passes.
        lost: Fraction of calls whose worker dies.
    """

    transient: float
    lost: float


@dataclass(frozen=True)
class Asked:
    """A call: only what the imagined workers need."""

    shards: tuple[Shard, ...]
    care: Care


@dataclass
class Clock:
    """CPU seconds of this process, plus what was waited.

    Attributes:
        waited: Seconds in which the driver had nothing to do.
    """

    waited: float = 0.0
    _started: float = field(default_factory=time.process_time)

    def busy(self) -> float:
        """CPU seconds since the start."""
        return time.process_time() - self._started

    def __call__(self) -> float:
        """Now."""
        return self.busy() + self.waited


@dataclass
class Imagined:
    """A pool of workers that only take time.

    Attributes:
        size: Workers.
        seconds: What a shard takes, on average.
        calls: Submitted so far.
    """

    size: int
    seconds: float
    trouble: Trouble
    clock: Clock
    calls: int = 0
    _due: list[tuple[float, int, tuple[Shard, ...]]] = field(default_factory=list)
    _chance: random.Random = field(default_factory=lambda: random.Random(0))

    def room(self) -> int:
        """Workers that have nothing to do, and one call queued behind each."""
        return 2 * self.size - len(self._due)

    def grow(self) -> None:
        """Its size is fixed."""

    def submit(self, ticket: int, work: Any) -> None:
        """The call ends when each of its shards took its time."""
        self.calls += 1
        seconds = sum(self._chance.expovariate(1 / self.seconds) for _ in work.shards)
        heapq.heappush(self._due, (self.clock() + seconds, ticket, work.shards))

    def wait(self, timeout: float) -> list[Done]:
        """All that is due; if nothing is, the clock goes on until something is."""
        now = self.clock()
        pause = min(timeout, self._due[0][0] - now) if self._due else timeout
        self.clock.waited += max(0.0, pause)
        return list(self._finished(now + max(0.0, pause)))

    def _finished(self, now: float) -> Iterator[Done]:
        while self._due and self._due[0][0] <= now:
            _, ticket, shards = heapq.heappop(self._due)
            dies = self._chance.random() < self.trouble.lost
            yield Done(ticket, Lost("it died") if dies else [self._outcome(shard, ticket) for shard in shards])

    def _outcome(self, shard: Shard, ticket: int) -> Outcome:
        if self._chance.random() < self.trouble.transient:
            return Failure(shard.id, "transient", "slow down")
        stages = Stages(0.2 * self.seconds, 0.6 * self.seconds, 0.2 * self.seconds)
        return Receipt(shard.id, 10, 10, 0, 500, f"sha256:{'0' * 64}", stages, f"node:{ticket % self.size}")

    def running(self) -> list[int]:
        """Every call."""
        return [ticket for _, ticket, _ in self._due]

    def abandon(self, ticket: int) -> None:
        """Forget a call."""
        self._due = [each for each in self._due if each[1] != ticket]
        heapq.heapify(self._due)

    def workers(self) -> int:
        """How many there are."""
        return self.size

    def close(self) -> None:
        """Nothing was started."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...
    def during(self, what: str) -> AbstractContextManager[object]: ...
    def start(self, shards: int, done: int, rows: int | None) -> None: ...
    def update(self, in_flight: int, receipt: Receipt | None = None, failure: Failure | None = None) -> None: ...
    def close(self) -> None: ...


def fragments(count: int) -> Iterator[Fragment]:
    """Small files."""
    for number in range(count):
        file = Input(f"s3://bucket/input/{number:012}.parquet", SHARD_BYTES, f"{number:032x}")
        yield Fragment(file, SHARD_BYTES, 10, 0, (0, 1))


def account_of(shards: list[Shard], sink: Path) -> Account:
    """A real account over a real ledger on this disk, with the plan recorded."""
    where = Sink("parquet", str(sink))
    loader = Loader(lambda: None, "benchmark", {}, "")  # type: ignore[arg-type, return-value]
    job = Job(Source("s3://bucket/input", "parquet"), loader, mode=None, sink=where)  # type: ignore[arg-type]
    ledger = Ledger(where, "run")
    ledger.record_recipe(Recorded({}, None, None))
    ledger.record_plan(shards)
    show: Progress = Silent()
    return Account(job, show, ledger, new_report(job, "run"))


@dataclass(frozen=True)
class Measured:
    """What a run of the dispatcher cost the driver."""

    shards: int
    calls: int
    retried: int
    busy: float
    total: float

    def row(self) -> str:
        """For the table."""
        rate, cost = self.shards / self.busy, 1000 * self.busy / self.shards
        return (
            f"| {self.shards:,} | {self.calls:,} | {self.retried:,} | {self.busy:.2f} s | {cost:.3f} ms | {rate:,.0f} | "
            f"{100 * self.busy / self.total:.0f} % |"
        )


def measure(count: int, workers: int, seconds: float, trouble: Trouble) -> Measured:
    """Dispatch so many shards to so many workers."""
    shards = make_shards(list(fragments(count)), None)
    policy = Errors(max_retries=100, max_lost_workers=100, stop_after_failed_shards=count)
    with tempfile.TemporaryDirectory() as sink:
        account = account_of(shards, Path(sink))
        clock = Clock()
        pool = Imagined(workers, seconds, trouble, clock)
        dispatcher = Dispatcher(pool, Asked, policy, now=clock)  # type: ignore[arg-type]
        pending = execution_order(account.ledger.pending())
        account.started(pending)
        for event in dispatcher.run(pending):
            account.take(event, dispatcher)
        account.ledger.flush()
        assert account.report.committed == count, account.report
        return Measured(count, pool.calls, dispatcher.retries + dispatcher.lost_workers, clock.busy(), clock())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8000)
    parser.add_argument("--shards", default="1000,10000,100000", help="how many, several with commas")
    parser.add_argument("--seconds", type=float, default=1.0, help="of work in a shard, on average")
    parser.add_argument(
        "--transient", type=float, default=0.01, help="fraction of shards that meet a passing storage error"
    )
    parser.add_argument("--lost", type=float, default=0.001, help="fraction of calls whose worker dies")
    given = parser.parse_args()
    trouble = Trouble(given.transient, given.lost)
    print(f"{given.workers:,} workers, {given.seconds:g} s a shard, {trouble}\n")
    print("| shards | calls | tried again | driver's CPU | per shard | shards/s at most | driver busy |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in map(int, given.shards.split(",")):
        print(measure(count, given.workers, given.seconds, trouble).row(), flush=True)


if __name__ == "__main__":
    main()
