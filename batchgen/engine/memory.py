"""How much memory there is, and how much was used. Bytes."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from batchgen.engine.resident import peak_resident_bytes

__all__ = ["available_host_memory", "device_name", "peak_memory_bytes", "release_memory"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_host_memory() -> int:
    """What can be allocated now without swapping, by the machine and by the process's cgroup."""
    candidates = [_meminfo_available(), _cgroup_available()]
    known = [value for value in candidates if value is not None]
    return min(known, default=2 << 30)


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


def _meminfo_available() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_available() -> int | None:
    """What the limit of a v2 cgroup leaves; None where there is none."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used)
