"""The mark on a sink: who writes here, since when. Advisory: it spares two runs each other's work.

Output stays correct without it, since both runs follow the same recorded plans and publish the same bytes under the same
names. It is refreshed while its run lives, and taken over once it is stale, or at once where its process is known to be gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runner.errors import Incomplete
from runner.storage import Store

MARK = "_runner/mark.json"
REFRESH_SECONDS = 10.0
STALE_SECONDS = 60.0
_living: set[str] = set()  # the runs of this process that hold a mark


class Mark:
    """A context in which the sink is marked as this run's."""

    def __init__(self, store: Store, run_id: str, now: Callable[[], float] = time.time) -> None:
        """Take the sink's folder, and the run that asks."""
        self._store, self._run_id, self._now = store, run_id, now
        self._since = now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="sink mark", daemon=True)

    def __enter__(self) -> Mark:
        """Set the mark.

        Raises:
            Incomplete: Another run that seems to live holds it.
        """
        if not self._store.create(MARK, self._content()):
            held = self._read()
            if held is not None and not self._mine(held) and not abandoned(held, self._now()):
                raise Incomplete(self._refusal(held))
            self._store.replace(MARK, self._content())
        _living.add(self._run_id)
        self._thread.start()
        return self

    def _mine(self, held: Mapping[str, Any]) -> bool:
        """Whether this run set the mark itself, by a try whose answer was lost on the way."""
        return held.get("run_id") == self._run_id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the mark away, unless another run has taken it over."""
        self._ended.set()
        self._thread.join()
        _living.discard(self._run_id)  # also where the mark cannot be deleted: this process may run the job again
        with contextlib.suppress(OSError):  # an end that cannot be marked leaves a mark that goes stale
            if (held := self._read()) is not None and held.get("run_id") == self._run_id:
                self._store.delete(MARK)

    def _keep_fresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            with contextlib.suppress(OSError):
                self._store.replace(MARK, self._content())

    def _content(self) -> bytes:
        who = {"run_id": self._run_id, "host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}
        return json.dumps({**who, "since": self._since, "refreshed": self._now()}).encode()

    def _read(self) -> dict[str, Any] | None:
        text = self._store.read(MARK)
        try:
            content = json.loads(text or b"{}")
        except ValueError:
            return {}
        return content if text is not None and isinstance(content, dict) else None

    def _refusal(self, held: Mapping[str, Any]) -> str:
        ago = self._now() - held.get("since", self._now())
        return (
            f"sink.path={self._store.root}: another run is writing here: {held.get('run_id')} on {held.get('host')}, process "
            f"{held.get('pid')}, for {ago:.0f} s; wait for it, or stop it "
            f"(a mark that is not refreshed for {STALE_SECONDS:.0f} s is taken over)"
        )


def abandoned(held: Mapping[str, Any], now: float) -> bool:
    """Whether the run that set this mark is gone: not heard of for a minute, or its process on this host has ended."""
    if now - float(held.get("refreshed", 0)) > STALE_SECONDS:
        return True
    if held.get("host") != _host():
        return False
    if _started(int(held.get("pid", 0))) != held.get("started"):
        return True
    return held.get("pid") == os.getpid() and held.get("run_id") not in _living


def _host() -> str:
    """This host, until it boots again."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else ''}"


def _started(pid: int) -> str | None:
    """When a process started, `None` if there is none: process numbers are used again."""
    with contextlib.suppress(OSError, IndexError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # one that nobody has waited for yet is gone all the same
    if Path("/proc/self").exists():
        return None
    return "alive" if _alive(pid) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
