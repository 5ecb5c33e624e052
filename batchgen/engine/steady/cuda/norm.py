"""An RMS norm that a program computes for a row: its sum is cut by the row's size alone.

PyTorch's reductions, and those that its compiler makes, cut by the number of rows as well.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["steady_norm"]

_VALUES_A_WARP = 512


@triton.jit  # type: ignore[untyped-decorator]
def _norm_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    out: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ROUND_FIRST: tl.constexpr,
) -> None:
    """Grid: rows."""
    row = tl.program_id(0).to(tl.int64) * SIZE
    places = tl.arange(0, PADDED)
    there = places < SIZE
    values = tl.load(x + row + places, mask=there, other=0.0).to(tl.float32)
    scaled = values * (1.0 / tl.sqrt(tl.sum(values * values, 0) / SIZE + eps))
    if ROUND_FIRST:
        scaled = scaled.to(out.dtype.element_ty).to(tl.float32)
    result = scaled * tl.load(weight + places, mask=there, other=0.0)
    tl.store(out + row + places, result.to(out.dtype.element_ty), mask=there)


@torch.library.custom_op("batchgen::steady_norm", mutates_args=())
def steady_norm(
    x: torch.Tensor,  # [..., size]
    weight: torch.Tensor,  # float32 [size]
    eps: float,
    round_first: bool,
) -> torch.Tensor:  # [..., size]
    """x / sqrt(mean(x^2) + eps) * weight; `round_first`: to x's dtype before the weight."""
    rows, size = x.contiguous(), x.shape[-1]
    out = torch.empty_like(rows)
    padded = triton.next_power_of_2(size)
    if rows.numel():
        _norm_kernel[(rows.numel() // size,)](
            rows,
            weight,
            out,
            eps,
            SIZE=size,
            PADDED=padded,
            ROUND_FIRST=round_first,
            num_warps=max(1, min(8, padded // _VALUES_A_WARP)),
        )
    return out


@steady_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, eps: float, round_first: bool) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
