"""Reads PyTorch modules from files, and turns TorchScript modules into values that can be pickled."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models._files import Artifact, begins, fetch, readable, unreadable
from models._imports import refuse_pickle

if TYPE_CHECKING:
    import numpy as np
    import torch

    Build = Callable[[], torch.nn.Module]
    Packed = torch.nn.Module | np.ndarray[Any, Any]

PICKLE, ZIP = b"\x80", b"PK"  # first bytes of a file of torch.save
NESTED = (
    "state_dict",
    "model_state_dict",
)  # keys under which a checkpoint keeps the weights beside the optimizer's state


def read(path: str, build: Build | None, trust: bool, options: Mapping[str, Any] | None) -> torch.nn.Module:
    """Return the module that a file holds, on the CPU.

    Args:
        path: Local path or fsspec URI of a safetensors file, a state dict, or a whole module.
        build: Makes the module that the weights are loaded into; `None` if the file is a whole module.
        trust: Whether the file may execute code.
        options: fsspec's options for the path.

    Raises:
        ValueError: The file is not what the arguments say, or its weights do not fit the module.
        FileNotFoundError: There is no such file.
    """
    if path.endswith(".safetensors"):
        make = _required(path, build)  # before what may be a long download
        return _with_weights(path, make(), _read_safetensors(path, fetch(path, options)))
    artifact = fetch(path, options)
    found = _script(path, artifact) if _holds_script(artifact) else _unpickled(path, artifact, trust)
    if isinstance(found, Mapping):
        return _with_weights(path, _required(path, build)(), _innermost(found))
    return _whole(path, build, found)


def _required(path: str, build: Build | None) -> Build:
    if build is None:
        raise ValueError(
            f"model.path={path} holds weights only: name the class they belong to, model.module=package.Class"
        )
    return build


def _whole(path: str, build: Build | None, module: Any) -> torch.nn.Module:
    import torch

    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"model.path={path} holds a {type(module).__name__}; expected a state dict or a module")
    if build is not None:
        raise ValueError(f"model.path={path} holds a whole module, so model.module has no effect: leave it out")
    return module


# ---------------------------------------------------------------- weights


def _innermost(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict of the module, which a checkpoint may keep under a key."""
    return next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), found)


def _with_weights(path: str, module: torch.nn.Module, state: Mapping[str, Any]) -> torch.nn.Module:
    try:
        module.load_state_dict({**_shared(module, state), **state})
    except RuntimeError as mismatch:
        raise ValueError(
            f"model.path={path} does not fit what model.module and model.module_args make: {' '.join(str(mismatch).split())}"
        ) from mismatch
    return module


def _shared(module: torch.nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return tied weights under all of their names: a safetensors file keeps a tensor under one of its names only."""
    places = {
        name: (value.data_ptr(), value.shape)
        for name, value in module.state_dict().items()
        if hasattr(value, "data_ptr")
    }
    stored = {place: state[name] for name, place in places.items() if name in state}
    return {name: stored[place] for name, place in places.items() if place in stored}


def _read_safetensors(path: str, artifact: Artifact) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        return load_file(artifact) if isinstance(artifact, Path) else load(artifact)
    except SafetensorError as error:
        raise unreadable(path, artifact, "safetensors", error) from error


def _unpickled(path: str, artifact: Artifact, trust: bool) -> Any:
    import torch

    if trust:
        refuse_pickle("model.path", path)
    try:
        return torch.load(readable(artifact), map_location="cpu", weights_only=not trust)
    except pickle.UnpicklingError as refused:
        if not begins(artifact).startswith((PICKLE, ZIP)) or "Unsupported operand" in str(refused):
            raise unreadable(path, artifact, "a file of torch.save", ValueError(_reason(refused))) from refused
        raise ValueError(
            f"model.path={path} holds something other than tensors ({_reason(refused)}). Save the module's "
            "state_dict() or a TorchScript archive; or, if you trust the file, set model.trust_pickle=true: "
            "reading it then executes code that it contains"
        ) from refused
    except (EOFError, RuntimeError) as broken:
        raise unreadable(path, artifact, "a file of torch.save", broken) from broken


def _reason(error: Exception) -> str:
    """Return the one line of PyTorch's long message that says what was found in the file."""
    return str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]


# ---------------------------------------------------------------- scripts


def _script(path: str, artifact: Artifact) -> torch.nn.Module:
    try:
        return read_script(readable(artifact))
    except RuntimeError as broken:
        raise unreadable(path, artifact, "TorchScript", broken) from broken


def is_script(module: Any) -> bool:
    """Return whether a module came from a TorchScript archive."""
    import torch

    return isinstance(module, torch.jit.ScriptModule)


def read_script(archive: str | io.BytesIO, device: str = "cpu") -> torch.nn.Module:
    """Read a TorchScript archive onto a device."""
    import torch

    with _deprecation_untold():
        script: torch.nn.Module = torch.jit.load(archive, map_location=device)  # type: ignore[no-untyped-call]
    return script


def pack(module: torch.nn.Module) -> Packed:
    """Return a value that can be pickled: for a TorchScript module its archive as an array of bytes, else the module itself.

    An array and not `bytes`, because pickle (protocol 5) passes an array's memory out of band, so that processes can share it.
    """
    import numpy as np
    import torch

    if not is_script(module):
        return module
    archive = io.BytesIO()
    with _deprecation_untold():
        torch.jit.save(module, archive)
    return np.frombuffer(archive.getbuffer(), dtype=np.uint8)


def unpack(packed: Packed, device: str = "cpu") -> torch.nn.Module:
    """Return the module that `pack` packed; the weights of a TorchScript module are loaded onto the device."""
    import numpy as np

    return read_script(io.BytesIO(packed.data), device) if isinstance(packed, np.ndarray) else packed


def _holds_script(artifact: Artifact) -> bool:
    if not zipfile.is_zipfile(readable(artifact)):
        return False
    with zipfile.ZipFile(readable(artifact)) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _deprecation_untold() -> warnings.catch_warnings[None]:
    """Ignore PyTorch's deprecation of TorchScript: it is meant for those who write archives, not for those who run one."""
    return warnings.catch_warnings(action="ignore", category=DeprecationWarning)
