"""What the device can do at best, measured: read bandwidth and matmul rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "measure_ceilings"]

_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes read per second and floating-point operations per second."""

    bytes_per_s: float
    flops_per_s: float


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Best of a few: a sum over memory far larger than any cache, and one large matrix product."""
    on_gpu = device.type == "cuda"
    data = torch.ones((2 << 30 if on_gpu else 256 << 20) // 4, device=device)
    size = 8192 if on_gpu else 1024
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    read = _fastest(lambda: data.sum(), device)
    product = _fastest(lambda: left @ right, device)
    return Ceilings(data.numel() * 4 / read, 2 * size**3 / product)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_REPEATS):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
