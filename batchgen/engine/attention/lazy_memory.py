"""Empty caches: on the host, zeros that take memory only where they are touched."""

from __future__ import annotations

import math
import mmap

import torch

from batchgen.engine.attention.interface import AttentionSpec, CacheShape

__all__ = ["lazy_zeros", "zeroed_rows"]


def lazy_zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Like `torch.zeros` on the CPU, but pages are mapped when first read or written.

    A KV cache is sized for the longest job; blocks are reused newest first, so a small job touches
    little of it. Page-aligned.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if not num_bytes:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).view(shape)


def zeroed_rows(spec: AttentionSpec, shape: CacheShape) -> tuple[torch.Tensor, torch.Tensor]:
    """The empty cache of one layer, a row a slot, so that nothing stale is ever NaN: keys
    [num_blocks * block_size, num_kv_heads, head_dim] and values [.., v_head_dim]."""
    rows = (shape.num_blocks * shape.block_size, spec.num_kv_heads)
    sizes = (*rows, spec.head_dim), (*rows, spec.v_head_dim)
    if shape.device.type == "cpu":
        key, value = (lazy_zeros(*size, dtype=shape.dtype) for size in sizes)
    else:
        key, value = (torch.zeros(size, dtype=shape.dtype, device=shape.device) for size in sizes)
    return key, value
