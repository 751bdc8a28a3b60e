"""One copy of a model for all processes of a machine: big arrays lie in a file that each process maps.

Pages are shared until somebody writes to them: a process that changes its weights in place changes a copy of its own.
"""

from __future__ import annotations

import mmap
import pickle
import struct
from typing import IO, Any

ALIGNMENT = 64
HEAD = struct.Struct("<Q")


def save(value: Any, file: IO[bytes]) -> int:
    """Write a value so that `load` can map its arrays.

    Returns:
        Bytes written.

    Raises:
        Exception: Whatever pickling it raises.
    """
    import cloudpickle

    buffers: list[pickle.PickleBuffer] = []
    body = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    table = pickle.dumps([view.nbytes for view in views])
    for part in (HEAD.pack(len(table)), table, HEAD.pack(len(body)), body):
        file.write(part)
    for view in views:
        file.write(bytes(-file.tell() % ALIGNMENT))
        file.write(view)
    file.flush()
    return file.tell()


def load(number: int) -> Any:
    """Read what `save` wrote, from the number of an open file; arrays stay mapped."""
    mapped = mmap.mmap(number, 0, access=mmap.ACCESS_COPY)
    view = memoryview(mapped)
    table, start = _piece(view, 0)
    body, start = _piece(view, start)
    buffers = []
    for size in pickle.loads(table):
        start += -start % ALIGNMENT
        buffers.append(view[start : start + size])
        start += size
    return pickle.loads(body, buffers=buffers)


def _piece(view: memoryview, start: int) -> tuple[memoryview, int]:
    """A piece that its length precedes, and where the next begins."""
    (length,) = HEAD.unpack_from(view, start)
    first = start + HEAD.size
    return view[first : first + length], first + length
