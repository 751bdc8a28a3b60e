"""The mark on a sink: which run writes here, since when, and when another run may take it over.

It keeps two runs out of each other's way. It is refreshed while its run lives, and taken over once it is stale, or at once where its
process is known to have ended. A run that stood still (a stopped process, a paused machine) may find it taken over when it
goes on: then it stops. What its workers were about to publish meanwhile is kept back by the seal of the recipe (`Store.holds`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType

from runner.errors import Incomplete
from runner.ledger.holder import Holder, has_ended, holder_of, this_process
from runner.types import Store

MARK = "_runner/mark.json"
REFRESH_SECONDS = 10.0
STALE_SECONDS = 60.0
LATE_SECONDS = 30.0  # since the mark was last seen: after that it is read again before anything is begun
WATCH_SECONDS = 5.0  # between two looks at a mark whose time cannot be true
_living: set[str] = set()  # the runs of this process that hold a mark


class Mark:
    """A context in which the sink is marked as this run's. Outside of it, nothing is marked and nothing is checked."""

    def __init__(
        self,
        store: Store,
        run_id: str,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take the records of the sink, and the id of this run."""
        self._store, self._run_id, self._now, self._sleep = store, run_id, now, sleep
        self._since = self._seen = now()
        self._asked = float("-inf")
        self._lost: Holder | None = None
        self._held = False
        self._ended, self._looking = threading.Event(), threading.RLock()

    def __enter__(self) -> Mark:
        """Set the mark.

        Raises:
            Incomplete: Another run that seems to live holds it.
        """
        self._seen = self._now()
        if not self._store.create(MARK, self._content()):
            text = self._store.read(MARK)
            if text is not None and self._lives(text):
                raise Incomplete(self._refusal(holder_of(text)))
            self._store.replace(MARK, self._content())
        self._held = True
        _living.add(self._run_id)
        self._thread = threading.Thread(target=self._keep_fresh, name="sink mark", daemon=True)
        self._thread.start()
        return self

    def _lives(self, text: bytes) -> bool:
        """Whether another run, which seems to be alive, has set this mark."""
        held = holder_of(text)
        if held.run_id == self._run_id:  # set by a try whose answer was lost on the way
            return False
        if has_ended(held, _living):
            return False
        age = self._now() - held.refreshed
        return self._changes(text) if age < -STALE_SECONDS else age <= STALE_SECONDS

    def _changes(self, text: bytes) -> bool:
        """Whether a mark with a time in the future is renewed within a minute. The clock of its host is ahead, so its age says nothing."""
        for _ in range(int(STALE_SECONDS / WATCH_SECONDS)):
            self._sleep(WATCH_SECONDS)
            if self._store.read(MARK) != text:
                return True
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Delete the mark, unless another run has taken it over."""
        self._held = False
        self._ended.set()
        self._thread.join()
        _living.discard(self._run_id)  # also where the mark cannot be deleted: this process may run the job again
        with contextlib.suppress(OSError):  # an end that cannot be marked leaves a mark that goes stale
            if holder_of(self._store.read(MARK) or b"").run_id == self._run_id:
                self._store.delete(MARK)

    # ------------------------------------------------ while it is held

    def ensure_held(self) -> None:
        """Make sure that this run still holds the sink. Reads the mark only if that was not done for half a minute.

        A storage that does not answer now is no reason to stop: the workers ask it again before they publish.

        Raises:
            Incomplete: Another run has taken the sink over.
        """
        now = self._now()
        if self._held and not 0 <= now - self._seen <= LATE_SECONDS and not 0 <= now - self._asked < REFRESH_SECONDS:
            with contextlib.suppress(OSError):
                self._read()
            self._asked = self._now()
        self._refuse_lost()

    def confirm(self) -> None:
        """Make sure by reading the mark, before what cannot be taken back.

        Raises:
            Incomplete: Another run has taken the sink over.
        """
        if self._held:
            self._read()
        self._refuse_lost()

    def _refuse_lost(self) -> None:
        if self._lost is not None:
            raise Incomplete(self._loss(self._lost))

    def _read(self) -> float:
        """Read the mark, and return the time before the read: from then on it may have changed again."""
        with self._looking:
            asked, text = self._now(), self._store.read(MARK)
            if (held := holder_of(text or b"")).run_id != self._run_id:
                self._lost = held
            else:
                self._seen = asked  # and not the time of the answer: this process may have been stopped in between
            return asked

    def _keep_fresh(self) -> None:
        while self._lost is None and not self._ended.wait(REFRESH_SECONDS):
            with contextlib.suppress(Exception):  # whatever it was, the next round may do better
                self._refresh()

    def _refresh(self) -> None:
        with self._looking:  # nobody reads the mark while it is replaced, which is not atomic everywhere
            seen = self._read()
            if self._lost is None and 0 <= self._now() - seen <= LATE_SECONDS:
                self._store.replace(MARK, self._content())

    def _content(self) -> bytes:
        return this_process(self._run_id, self._since, self._now()).to_json()

    def _refusal(self, held: Holder) -> str:
        ago = f", for {self._now() - held.since:.0f} s" if 0 < held.since <= self._now() else ""
        return (
            f"{self._store.place}: another run is writing here: {held}{ago}; wait for it, or stop it "
            f"(a mark that is not refreshed for {STALE_SECONDS:.0f} s is taken over)"
        )

    def _loss(self, held: Holder) -> str:
        who = (
            f"another run took it over: {held}"
            if held.run_id
            else "its mark is gone: another run took it over and ended"
        )
        return f"{self._store.place}: this run stood still, and no longer holds the sink; {who}; this run stops here"
