"""Who a sink's mark says is writing there, and whether that process is known to have ended.

A process number means something only to those who see the same processes: containers share a host name and even a boot, and number
their processes each for itself. What cannot be seen is not gone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LARGEST_PID = 2**31 - 1


@dataclass(frozen=True)
class Holder:
    """A run that marked a sink as its own. What a mark lacks, or has of another type, is empty or 0.

    Attributes:
        run_id: Names the run.
        host: Its host, until that boots again.
        processes: The PID namespace in which `pid` counts; empty where that cannot be told.
        pid: Its driver's process.
        started: When that process began, which tells it from a later one of the same number.
        since: When the mark was set, by the clock of its host.
        refreshed: When it was last refreshed, by the same clock.
    """

    run_id: str = ""
    host: str = ""
    processes: str = ""
    pid: int = 0
    started: str = ""
    since: float = 0.0
    refreshed: float = 0.0

    def to_json(self) -> bytes:
        """The holder as JSON, which people and `holder_of` can read."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        return f"{self.run_id or 'a run'} on {self.host or 'an unknown host'}, process {self.pid or 'unknown'}"


def this_process(run_id: str, since: float, now: float) -> Holder:
    """The holder that this process writes into a mark."""
    pid = os.getpid()
    return Holder(run_id, _host(), _processes(), pid, _began(pid) or "", since, now)


def holder_of(text: bytes) -> Holder:
    """The holder that a mark names, also of a damaged mark or one of another version."""
    try:
        content = json.loads(text)
    except ValueError:
        return Holder()
    told: dict[str, Any] = content if isinstance(content, dict) else {}
    words = {name: _word(told.get(name)) for name in ("run_id", "host", "processes", "started")}
    pid, since, refreshed = (_number(told.get(name)) for name in ("pid", "since", "refreshed"))
    return Holder(**words, pid=int(pid) if 0 < pid <= LARGEST_PID else 0, since=since, refreshed=refreshed)


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):  # an integer of a thousand digits
        return float(value) if is_number and math.isfinite(value) else 0.0  # type: ignore[arg-type]
    return 0.0


def has_ended(held: Holder, living: Collection[str]) -> bool:
    """Whether the run is known to have ended. Only a process that would see the run's process if it were alive can know.

    Args:
        held: What its mark says.
        living: The runs of this very process that are not over.
    """
    if not held.pid or not held.processes or (held.host, held.processes) != (_host(), _processes()):
        return False
    began = _began(held.pid)
    if began is None:
        return not _exists(held.pid)
    return began != held.started or (held.pid == os.getpid() and held.run_id not in living)


def _host() -> str:
    """An id of this host, until its next boot."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip()[:8] if boot.exists() else ''}"


def _processes() -> str:
    """The PID namespace of this process; empty where `/proc` is missing, or shows the processes of another namespace."""
    if not sys.platform.startswith("linux"):
        return sys.platform
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):  # noqa: PTH115
            return os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return ""


def _began(pid: int) -> str | None:
    """When a process began, empty for one that nobody has waited for yet, `None` for one that is not there or is hidden."""
    with contextlib.suppress(OSError, IndexError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return None


def _exists(pid: int) -> bool:
    """Whether there is such a process; the system tells also of one that `/proc` hides (`hidepid`)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
