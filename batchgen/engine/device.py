"""Between the host and a device: numpy's arrays as tensors there, tensors from there."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["to_device", "to_host"]


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array's own memory on the CPU, a copy elsewhere."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if device.type == "cpu" else tensor.to(device)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Nothing waits: what comes from a GPU is there once its stream is that far."""
    return tensor if tensor.device.type == "cpu" else tensor.to("cpu", non_blocking=True)
