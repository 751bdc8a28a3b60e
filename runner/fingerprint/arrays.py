"""The content of NumPy arrays and torch tensors as a digest, without importing either package."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType
from typing import Any


class OpaqueError(Exception):
    """A value holds something that cannot be looked into, such as a lock."""


def content_of_array(value: Any) -> list[Any] | None:
    """Type, shape and content of an array or a tensor; `None` for anything else.

    A package that is not imported cannot have made the value.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if torch is not None and isinstance(value, getattr(torch, "Tensor", ())):
        return _of_tensor(torch, value)
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    array = numpy.asarray(value)
    head = [str(array.dtype), list(array.shape)]
    if array.dtype.names:  # field by field: what lies between the fields is not initialized
        return [*head, *(array[name] for name in array.dtype.names)]
    if array.dtype.kind in "OT":
        return [*head, array.tolist()]
    flat = numpy.ascontiguousarray(array).reshape(-1)
    content = flat.view(numpy.uint8).data if flat.size and flat.dtype.itemsize else b""
    return [*head, hashlib.sha256(content).digest()]


def _of_tensor(torch: ModuleType, value: Any) -> list[Any]:
    try:
        held = value.detach().cpu().contiguous().reshape(-1)
        content = held.view(torch.uint8).numpy().data if held.numel() else b""
    except Exception as error:
        raise OpaqueError from error
    return [str(value.dtype), list(value.shape), hashlib.sha256(content).digest()]
