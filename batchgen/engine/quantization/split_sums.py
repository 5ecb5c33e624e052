"""Sums whose parts were computed apart on CUDA, added in Triton: always in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["add_parts"]

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _add_kernel(
    parts: tl.tensor,  # float32 [NUM_PARTS, size]
    out: tl.tensor,  # [size]
    size: tl.tensor,
    NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A run of numbers a program."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    total = tl.load(parts + at, inside, other=0.0)
    for part in tl.static_range(1, NUM_PARTS):
        total += tl.load(parts + part * size.to(tl.int64) + at, inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), inside)


def add_parts(parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 [num_parts, num_rows, num_outputs] -> [num_rows, num_outputs]."""
    count, rows, outputs = parts.shape
    out = torch.empty(rows, outputs, dtype=dtype, device=parts.device)
    grid = (triton.cdiv(out.numel(), _BLOCK),)
    _add_kernel[grid](parts, out, out.numel(), count, _BLOCK, num_warps=4)
    return out
