"""One copy of a model for all processes of a machine: each process maps it, and a process that writes to it gets its own pages.

A model is packed once. The result is its pickle and, beside it, every big buffer as it lies in memory (pickle protocol 5): the arrays of
NumPy and of what pickles like them, and the storages of torch's CPU tensors. Tied weights and views therefore stay what they are. The
model that is unpacked refers to these buffers, and no buffer is copied. The memory is mapped copy-on-write, whether it is a file of our own
or an object in Ray's store: when a process writes to its weights, the kernel gives it its own copy of those pages, and no other process
sees the change.

These are not shared: tensors on other devices, TorchScript modules (torch saves and loads these itself), and objects that copy what they
are given into memory of their own, as scikit-learn's forests do.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import struct
import sys
from collections import ChainMap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, Any]

ALIGNMENT_BYTES = 64  # as torch allocates memory; with another alignment its kernels may round differently
NUMBER = struct.Struct("<Q")


@dataclass(frozen=True, eq=False)
class Parcel:
    """A packed value.

    Attributes:
        buffers: The pickle, then the buffers it refers to.
        mapping: The memory they lie in where that is mapped copy-on-write; `None` where it is this process's own.
    """

    buffers: Sequence[memoryview]
    mapping: mmap.mmap | None = None

    @property
    def size(self) -> int:
        """The size of all buffers in bytes."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def unpack(self) -> Any:
        """The value. Its buffers are the memory of this parcel: what it writes to them is written there."""
        body, *others = self.buffers
        return pickle.loads(body, buffers=others)

    def written(self) -> int:
        """How many bytes of the mapping this process has copies of because it wrote there; 0 where the system does not tell."""
        if self.mapping is None:
            return 0
        with contextlib.suppress(OSError):
            return _private_pages(_address(self.mapping), len(self.mapping)) * mmap.PAGESIZE
        return 0


# ---------------------------------------------------------------- packing


def pack(value: Any) -> Parcel:
    """Pack a value; the buffers are views of its own memory.

    Raises:
        Exception: Whatever pickling it raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    body = _pickled(value, buffers.append)
    return Parcel([body, *(buffer.raw() for buffer in buffers)])


def portable(value: Any) -> bytes:
    """A value as one pickle, for a process that shares no memory with this one."""
    return bytes(_pickled(value, None))


def _pickled(value: Any, keep: Callable[[pickle.PickleBuffer], Any] | None) -> memoryview:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap(_torch_reducers(), cloudpickle.Pickler.dispatch_table)

    file = io.BytesIO()
    Pickler(file, protocol=5, buffer_callback=keep).dump(value)
    return file.getbuffer()


def _torch_reducers() -> dict[type, Callable[[Any], Any]]:
    """How the storages of torch are pickled: every kind of tensor is a view of one. Those on other devices go as torch does it."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    return {torch.storage.TypedStorage: _reduce_typed, torch.storage.UntypedStorage: _reduce_untyped}


def _reduce_typed(storage: Any) -> Any:
    untyped = storage._untyped_storage
    return (_typed, (untyped, storage.dtype)) if untyped.device.type == "cpu" else storage.__reduce__()


def _typed(storage: Any, dtype: torch.dtype) -> Any:
    from torch.storage import TypedStorage

    return TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)  # type: ignore[no-untyped-call]


def _reduce_untyped(storage: Any) -> Any:
    import torch

    values: Any = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return _untyped, (pickle.PickleBuffer(values),)


def _untyped(buffer: Any) -> Any:
    """A storage that uses a writable buffer; the buffer is copied only if it is not aligned as torch's own memory is."""
    import torch

    values = torch.frombuffer(buffer, dtype=torch.uint8) if len(buffer) else torch.empty(0, dtype=torch.uint8)
    return (values.clone() if values.data_ptr() % ALIGNMENT_BYTES else values).untyped_storage()


# ---------------------------------------------------------------- in a file


def save(parcel: Parcel, file: IO[bytes]) -> None:
    """Write a parcel so that `load` can map it."""
    sizes = [buffer.nbytes for buffer in parcel.buffers]
    for number in (len(sizes), *sizes):
        file.write(NUMBER.pack(number))
    for start, buffer in zip(_starts(sizes, file.tell()), parcel.buffers, strict=False):
        file.seek(start)
        file.write(buffer)
    file.flush()


def load(number: int) -> Parcel:
    """Map what `save` wrote, from the number of an open file."""
    mapping = mmap.mmap(number, 0, access=mmap.ACCESS_COPY)
    (count,) = NUMBER.unpack_from(mapping)
    sizes = struct.unpack_from(f"<{count}Q", mapping, NUMBER.size)
    return Parcel(_cut(mapping, _starts(sizes, (1 + count) * NUMBER.size), sizes), mapping)


def _starts(sizes: Sequence[int], first: int) -> list[int]:
    """Where each buffer begins, if they lie one after the other, aligned, from `first` on; and where the next one would."""
    return list(
        accumulate((size + -size % ALIGNMENT_BYTES for size in sizes), initial=first + -first % ALIGNMENT_BYTES)
    )


def _cut(memory: mmap.mmap, starts: Sequence[int], sizes: Sequence[int]) -> list[memoryview]:
    view = memoryview(memory)
    return [view[start : start + size] for start, size in zip(starts, sizes, strict=False)]


# ---------------------------------------------------------------- in memory that another process owns
#
# What: a worker of Ray sees the model in Ray's object store, which its parent (the raylet) owns and which the worker may only read. The
# code below maps the same memory a second time, copy-on-write, so that the model may write to its own pages. It finds in
# /proc/self/maps which file is mapped at the address of the buffers, looks in /proc/<parent>/fd for the descriptor of that file (same
# device, same inode), opens it anew through that path, and maps it privately.
#
# Why not the plain way: Ray's own views are read-only, and many models write to themselves (statistics of a normalisation, caches,
# torch's own checks for writable memory). Copying the weights would be safe, but each worker would then hold a copy of them. The
# store's file cannot be opened by name: the raylet deletes its name right after it is created, so an open descriptor is the only way to
# it.
#
# What would break it: another system than Linux (no /proc); a worker whose parent is not the raylet, or that may not read the raylet's
# descriptors (another user, another container, a hardened kernel); a store that does not keep its memory in a file. Then `adopt` copies
# the buffers, which is right but takes memory, and the summary says `copied`. The store may also use the memory for another object as
# soon as nobody holds the first one: the mapping therefore keeps Ray's arrays alive (`kept`), and this must stay so.


class _Mapping(mmap.mmap):
    """A mapping that keeps alive what it maps: else the owner might use the memory for something else."""

    kept: Any = None


def adopt(arrays: Sequence[Array]) -> Parcel:
    """A parcel made of arrays that lie in shared memory which must not be written to, such as Ray's object store.

    That memory is mapped once more, copy-on-write. Where the system does not allow this, the buffers are copied.
    """
    with contextlib.suppress(OSError, LookupError, ValueError):
        return _mapped_again(arrays)
    sizes = [array.nbytes for array in arrays]
    starts = _starts(sizes, 0)
    copies = _cut(mmap.mmap(-1, starts[-1]), starts, sizes)
    for copy, array in zip(copies, arrays, strict=True):
        copy[:] = array.data
    return Parcel(copies)


def _mapped_again(arrays: Sequence[Array]) -> Parcel:
    spans = [(array.ctypes.data, array.nbytes) for array in arrays]
    first, last = min(start for start, size in spans if size), max(start + size for start, size in spans)
    file, offset = _file_below(first, last)
    page = offset - offset % mmap.ALLOCATIONGRANULARITY
    try:
        mapping = _Mapping(file, offset - page + last - first, access=mmap.ACCESS_COPY, offset=page)
    finally:
        os.close(file)
    mapping.kept = arrays
    starts = [offset - page + start - first if size else 0 for start, size in spans]
    return Parcel(_cut(mapping, starts, [size for _, size in spans]), mapping)


def _file_below(first: int, last: int) -> tuple[int, int]:
    """The file that is mapped at these addresses, opened through a descriptor of the parent, and the offset of the first address in it."""
    with open("/proc/self/maps") as lines:
        for line in lines:
            span, _, offset, device, node, *_ = line.split()
            start, end = (int(address, 16) for address in span.split("-"))
            if start <= first and last <= end:
                major, minor = (int(number, 16) for number in device.split(":"))
                return _opened_by_parent(os.makedev(major, minor), int(node)), int(offset, 16) + first - start
    raise LookupError(first)


def _opened_by_parent(device: int, node: int) -> int:
    with os.scandir(f"/proc/{os.getppid()}/fd") as files:
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # closed since
                found = file.stat()
                if (found.st_dev, found.st_ino) == (device, node):
                    return os.open(file.path, os.O_RDONLY)
    raise LookupError(node)


# ---------------------------------------------------------------- what it costs

# The kernel keeps an entry of 8 bytes for each page in /proc/self/pagemap. A page of a privately mapped file belongs to the file until
# this process writes to it; then the kernel puts a copy in its place, which is present and no longer of a file. So these two bits count
# the copies.
PRESENT, OF_A_FILE = 1 << 63, 1 << 61
ENTRY_BYTES = 8


def _address(mapping: mmap.mmap) -> int:
    import numpy as np

    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


def _private_pages(address: int, size: int) -> int:
    """How many pages of a mapped file this process has its own copy of by now."""
    import numpy as np

    count = -(-size // mmap.PAGESIZE)
    with open("/proc/self/pagemap", "rb", buffering=0) as table:
        table.seek(address // mmap.PAGESIZE * ENTRY_BYTES)
        entries = np.frombuffer(table.read(count * ENTRY_BYTES), np.uint64)
    return int(np.count_nonzero(entries & np.uint64(PRESENT | OF_A_FILE) == PRESENT))
