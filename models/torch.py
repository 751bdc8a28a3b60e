"""Loads PyTorch models: weights and their module, a TorchScript archive, or a function that builds a module.

    python -m runner model=torch model.path=m.safetensors model.module=pkg.Net model.columns=[distance,fare]
    python -m runner model=torch model.path=m.ts model.collate=pkg.to_tensors resources=gpu

The module moves to its device in the worker, once per process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from models._columns import matrix, named, squeezed
from models._files import name_problems
from models._imports import check_arguments, locate, not_installed, path_problems, pickle_problems
from models._torch_files import is_script, pack, read, unpack
from runner.types import Predictor

if TYPE_CHECKING:
    import numpy as np
    import torch

    from models._torch_files import Build

    Columns = dict[str, np.ndarray[Any, Any]]

Dtype = Literal["float32", "float64", "float16", "bfloat16", "int32", "int64"]


def load(
    path: str | None = None,
    module: str | None = None,
    module_args: dict[str, Any] | None = None,
    columns: list[str] | None = None,
    collate: str | None = None,
    output: str | list[str] = "prediction",
    dtype: Dtype = "float32",
    device: str | None = None,
    autocast: Literal["bfloat16", "float16"] | None = None,
    compile: bool = False,  # noqa: A002
    pin_memory: bool = False,
    trust_pickle: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Predictor:
    """Load a module and return a predictor.

    Give `path` and `module` for weights, `path` alone for a TorchScript archive, `module` alone for a
    function that returns a finished module. Give either `columns` or `collate`.

    Args:
        path: Local path or fsspec URI (`s3://anonymous@bucket/key` needs no credentials) of a `.safetensors`
            file, a state dict saved by `torch.save` (also below a key `state_dict` or `model_state_dict`), or
            a TorchScript archive.
        module: Dotted path of the module's class, or of a function that returns a module. Workers must be
            able to import it.
        module_args: Keyword arguments for `module`.
        columns: Numeric columns, given to the module as one tensor of shape `[rows, len(columns)]`; nulls are
            NaN. The module's floating-point weights are cast to `dtype`, so that the two agree.
        collate: Dotted path of a function that makes the module's input from a batch, which is what
            `predict.input` says. A tuple it returns becomes positional arguments, a dict keyword arguments,
            anything else the one argument; tensors are moved to the device.
        output: Name of the predictions' column: scalars if the module returns `[rows]` or `[rows, 1]`,
            vectors if it returns `[rows, k]`. A list of k names makes a column of scalars each. A module that
            returns a dict of tensors names its columns itself.
        dtype: Type of the tensor made from `columns`. An integer type refuses nulls.
        device: Such as `cuda` or `cpu`. `None`: `cuda` where a GPU is assigned to the worker
            (`resources.num_gpus`, seen as `CUDA_VISIBLE_DEVICES`), else the CPU.
        autocast: Run the module under `torch.autocast` with this type: faster where the device has units for it, and other
            last bits.
        compile: Run the module through `torch.compile`, in each worker process anew: the first batches take seconds to
            minutes, and again when the last batch of a shard has another length. It needs a C++ compiler, on a GPU Triton.
        pin_memory: Copy input to a GPU through page-locked memory.
        trust_pickle: Allow a file that holds more than tensors, such as a whole pickled module. Reading it
            **executes code** that the file contains: only for files you trust.
        storage_options: fsspec's options for the path.

    Returns:
        A predictor that returns a dict of column name to NumPy array. It can be pickled, and its weights stay
        on the CPU until its first call.

    Raises:
        ValueError: The arguments contradict each other, a dotted path leads nowhere, or the file is not what
            they say.
        FileNotFoundError: There is no such file.
    """
    inputs = _inputs(columns, collate, dtype)
    build = None if module is None else _builder(module, module_args or {})
    if device is not None:
        _device(device)  # a typing error shows now, not in the workers
    net = _built(build) if path is None else read(path, build, trust_pickle, storage_options)
    how = How(device, autocast, compile, pin_memory)
    return TorchPredictor(_for_inference(net, None if columns is None else dtype), inputs, output, how)


def load_problems(
    here: bool,
    path: str | None = None,
    module: str | None = None,
    collate: str | None = None,
    trust_pickle: bool = False,
    **_: Any,
) -> list[str]:
    """Return what is wrong with the arguments of `load`, without loading anything.

    Args:
        here: Whether this process will load the module, so that packages and code must be here.
        path: As for `load`.
        module: As for `load`.
        collate: As for `load`.
        trust_pickle: As for `load`.
    """
    given = path or ""
    absent = not_installed("torch", "torch", *["safetensors"] * given.endswith(".safetensors")) if here else []
    if path is None and module is None:
        absent.append("model=torch: model.path, model.module or both are required")
    named = [*path_problems("model.collate", collate), *path_problems("model.module", module)] if here else []
    return [
        *(absent or name_problems("torch", given) or named),
        *(pickle_problems("model.path") if trust_pickle else []),
    ]


@dataclass(frozen=True)
class How:
    """How a module is run: the arguments of `load` with these names."""

    device: str | None = None
    autocast: str | None = None
    compile: bool = False
    pin_memory: bool = False


class TorchPredictor:
    """A predictor that runs a module. It is pickled with the module on the CPU, and moves it to its device at the first call.

    Attributes:
        module: On the CPU until the first call.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        inputs: Callable[[Any], Any],
        output: str | list[str],
        how: How,
    ) -> None:
        """Take a module on the CPU, what turns a batch into its input, `load`'s `output`, and how it runs."""
        self.module = module
        self._inputs, self._output, self._how = inputs, output, how
        self._placed: torch.device | None = None
        self._run: Callable[..., Any] = module

    def __call__(self, batch: Any) -> Columns:
        """Predict one batch."""
        import torch

        device = self._placed or self._place()
        with torch.inference_mode(), self._casting(device):
            result = _apply(self._run, _moved(self._inputs(batch), device, pin=self._how.pin_memory))
        return _outputs(result, self._output)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling, with the module on the CPU: the receiver may have no GPU, or another one."""
        if self._placed is not None:
            self.module, self._placed = _on(self.module, _device("cpu")), None
        return {**self.__dict__, "module": pack(self.module), "_run": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled predictor."""
        self.__dict__.update(state)
        self._run = self.module = unpack(state["module"])

    def _casting(self, device: torch.device) -> AbstractContextManager[object]:
        import torch

        kind = self._how.autocast
        return nullcontext() if kind is None else torch.autocast(device.type, getattr(torch, kind))

    def _place(self) -> torch.device:
        import torch

        device = _device(self._how.device or _assigned_device())
        try:
            self.module = _on(self.module, device)
        except (RuntimeError, AssertionError) as error:  # builds without CUDA assert
            raise ValueError(
                f"model.device={device} cannot be used in this process: {error}. "
                "Ask for a GPU (resources.num_gpus=1), or set model.device=cpu"
            ) from error
        self._run = torch.compile(self.module) if self._how.compile else self.module
        self._placed = device
        return device


# ---------------------------------------------------------------- the module


def _builder(module: str, arguments: Mapping[str, Any]) -> Build:
    call = locate("model.module", module)
    check_arguments("model.module_args", module, call, arguments)
    return partial(_checked, module, partial(call, **arguments))


def _checked(name: str, call: Callable[[], Any]) -> torch.nn.Module:
    import torch

    built = call()
    if not isinstance(built, torch.nn.Module):
        raise ValueError(f"model.module={name} returned a {type(built).__name__}; expected a torch.nn.Module")
    return built


def _built(build: Build | None) -> torch.nn.Module:
    if build is None:
        raise ValueError("model=torch needs model.path, model.module, or both")
    return build()


def _for_inference(module: torch.nn.Module, dtype: Dtype | None) -> torch.nn.Module:
    import torch

    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    if dtype is not None and (kind := getattr(torch, dtype)).is_floating_point:
        module.to(kind)
    return _on(module, torch.device("cpu"))


# ---------------------------------------------------------------- devices


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.device(name)
    except RuntimeError as unknown:
        raise ValueError(f"model.device={name} is no device; expected one such as cpu, cuda or cuda:1") from unknown


def _assigned_device() -> str:
    """Return `cuda` if a GPU is assigned to this worker, else `cpu`: a GPU that is visible but not assigned belongs to others."""
    import torch

    return "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") and torch.cuda.is_available() else "cpu"


def _on(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    if is_script(module) and device.type != "cpu":  # a frozen script's weights are constants, which `to` does not move
        return unpack(pack(module), str(device))
    return module.to(device)


def _moved(value: Any, device: torch.device, *, pin: bool = False) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        pinned = pin and device.type == "cuda" and value.device.type == "cpu"
        return (value.pin_memory() if pinned else value).to(device, non_blocking=pinned)
    if isinstance(value, tuple):
        return tuple(_moved(item, device, pin=pin) for item in value)
    if isinstance(value, Mapping):
        return {key: _moved(item, device, pin=pin) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- in and out


def _inputs(columns: list[str] | None, collate: str | None, dtype: Dtype) -> Callable[[Any], Any]:
    if collate is not None and columns is None:
        return locate("model.collate", collate)
    if columns and collate is None:
        return partial(_tensor, columns=columns, dtype=dtype)
    raise ValueError(
        "model=torch takes the module's input from either model.columns=[...] or model.collate, a function; "
        f"given are model.columns={columns} and model.collate={collate}"
    )


def _tensor(batch: Any, columns: list[str], dtype: Dtype) -> torch.Tensor:
    import torch

    if dtype == "bfloat16":  # which NumPy does not know
        return torch.from_numpy(matrix(batch, columns, "float32")).to(torch.bfloat16)
    return torch.from_numpy(matrix(batch, columns, dtype))


def _apply(run: Callable[..., Any], value: Any) -> Any:
    if isinstance(value, tuple):
        return run(*value)
    return run(**value) if isinstance(value, Mapping) else run(value)


def _outputs(result: Any, output: str | list[str]) -> Columns:
    if isinstance(result, Mapping):
        return {str(name): squeezed(_array(value)) for name, value in result.items()}
    return named(_array(result), output)


def _array(value: Any) -> np.ndarray[Any, Any]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"the module returned a {type(value).__name__}; expected a tensor or a dict of tensors. "
            "Let model.module name a function that wraps it"
        )
    widened = value.float() if value.dtype == torch.bfloat16 else value
    array: np.ndarray[Any, Any] = widened.cpu().numpy()
    return array
