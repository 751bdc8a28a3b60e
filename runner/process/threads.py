"""Sets up a worker's process: its name in records, the threads of its native libraries, what it imports before its first call."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def where_i_am() -> str:
    """Return `host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def thread_environment(num_threads: int) -> dict[str, str]:
    """Return the variables that a worker's environment must have before its native libraries start their thread pools."""
    return dict.fromkeys(THREAD_VARIABLES, str(num_threads))


def import_ahead(packages: Sequence[str]) -> None:
    """Import packages that will be needed, while the worker has nothing else to do; an error is raised when the package is used."""
    for name in packages:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def limit_threads(num_threads: int) -> None:
    """Limit the thread pools of Arrow, torch and BLAS in this process to so many threads each."""
    import pyarrow as pa

    os.environ.update(thread_environment(num_threads))
    pa.set_cpu_count(num_threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
    pools: Any = sys.modules.get("threadpoolctl")
    if pools is not None:
        pools.threadpool_limits(num_threads)
