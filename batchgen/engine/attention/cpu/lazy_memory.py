"""Zeros on the host that take memory only where they are touched."""

from __future__ import annotations

import math
import mmap

import torch

__all__ = ["lazy_zeros"]


def lazy_zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Like `torch.zeros` on the CPU, but pages are mapped when first read or written.

    A KV cache is sized for the longest job; blocks are reused newest first, so a small job touches
    little of it. Page-aligned.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if not num_bytes:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).view(shape)
