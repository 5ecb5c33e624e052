"""How much memory was used, and giving it back. Bytes."""

from __future__ import annotations

import gc

import torch

from batchgen.engine.resident import peak_resident_bytes

__all__ = ["device_memory", "device_name", "peak_memory_bytes", "release_memory"]


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


def peak_memory_bytes() -> int:
    """Peak of the GPU's allocator where one is used, else the process's resident peak."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_reserved())
    return peak_resident_bytes()


def release_memory() -> None:
    """Give cached memory back after an allocation failed."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
