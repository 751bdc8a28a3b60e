"""A worker's process: what it is called, the threads of its native libraries, what it imports ahead of its first call."""

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
    """`host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def thread_environment(num_threads: int) -> dict[str, str]:
    """What a worker's environment must hold before its native libraries start their pools."""
    return dict.fromkeys(THREAD_VARIABLES, str(num_threads))


def import_ahead(packages: Sequence[str]) -> None:
    """Import what will be needed, while there is nothing else to do; what fails here is told where it matters."""
    for name in packages:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def limit_threads(num_threads: int) -> None:
    """Bound the thread pools of Arrow, torch and BLAS in this process."""
    import pyarrow as pa

    os.environ.update(thread_environment(num_threads))
    pa.set_cpu_count(num_threads)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)
    pools: Any = sys.modules.get("threadpoolctl")
    if pools is not None:
        pools.threadpool_limits(num_threads)
