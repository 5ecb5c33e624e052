"""Rows rounded to e4m3 on CUDA, in Triton.

Where layers are compiled, rows are rounded by torch's own operations instead, which the compiler
fuses with the norm or activation before them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from batchgen.engine.quantization.float8 import E4M3

__all__ = ["round_rows_on_gpu", "row_scale"]

_LARGEST = tl.constexpr(448.0)
_LEAST_SCALE = tl.constexpr(1e-12)


@triton.jit  # type: ignore[untyped-decorator]
def _round_kernel(
    x: tl.tensor,  # [num_rows, SIZE]
    out: tl.tensor,  # e4m3 [num_rows, SIZE]
    scales: tl.tensor,  # float32 [num_rows]
    stride: tl.tensor,  # of a row of x
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
) -> None:
    """A row a program."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, PADDED)
    inside = at < SIZE
    data = tl.load(x + row * stride + at, inside, other=0.0).to(tl.float32)
    scale = row_scale(data)
    data = tl.clamp(data / scale, -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row * SIZE + at, data.to(tl.float8e4nv), inside)
    tl.store(scales + row, scale)


@triton.jit  # type: ignore[untyped-decorator]
def row_scale(data: tl.tensor) -> tl.tensor:
    """The scale of a row in float32, NaN where the row has one: a maximum that leaves NaN out would
    make a usable row of one that is not."""
    largest = tl.reduce(tl.abs(data), 0, _larger)
    return tl.maximum(largest / _LARGEST, _LEAST_SCALE, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def _larger(one: tl.tensor, other: tl.tensor) -> tl.tensor:
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@torch.library.custom_op("batchgen::round_rows", mutates_args=())
def round_rows_on_gpu(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `float8.round_rows` with scales of the rows' own. x: [num_rows, size]."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, size = x.shape
    out = torch.empty(rows, size, dtype=E4M3, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    padded = triton.next_power_of_2(size)
    warps = 4 if padded <= 4096 else 8 if padded <= 8192 else 16
    _round_kernel[(rows,)](x, out, scales, x.stride(0), size, padded, num_warps=warps)
    return out, scales


@round_rows_on_gpu.register_fake
def _(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape, dtype=E4M3), x.new_empty(x.shape[0], 1, dtype=torch.float32)
