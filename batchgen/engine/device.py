"""A torch device: its name and memory, work on it, and data to it and back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from batchgen.counts import counted
from batchgen.devices import check_device_name
from batchgen.errors import UsageError

__all__ = [
    "device_memory",
    "device_name",
    "on_device",
    "resolve_device",
    "sent",
    "to_device",
    "to_host",
]


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises UsageError for a device that is not there."""
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(
            f"device {name!r} is not there: torch sees {counted(count, 'CUDA device')}",
            "look at nvidia-smi, CUDA_VISIBLE_DEVICES and whether this torch "
            f"({torch.__version__}) is built for CUDA; or take --device cpu",
        )
    return device


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes `device` the thread's current one inside: Triton launches kernels on the current
    device, not on that of the tensors it is given. May be entered many times, but not inside
    itself."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory."""
    total: int = torch.cuda.get_device_properties(device).total_memory
    return total


def device_name(device: torch.device) -> str:
    """For people: `cpu`, `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    if device.type != "cuda":
        return str(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    return f"cuda:{index} ({torch.cuda.get_device_name(index)})"


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """A tensor on `device`; on the CPU it shares the array's memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.to(device)


def sent(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """As `to_device`; to a GPU through pinned memory, so that the host does not wait."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor on the host. Does not wait: a GPU's values are there once its stream has come so
    far."""
    return tensor if tensor.device.type == "cpu" else tensor.to("cpu", non_blocking=True)
