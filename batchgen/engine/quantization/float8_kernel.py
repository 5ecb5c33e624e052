"""Float8 on CUDA in Triton: rows rounded to e4m3, and products of rows with weights.

Where layers are compiled, rows are rounded by torch's own operations instead, which the compiler
fuses with the norm or activation before them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from batchgen.engine.quantization.float8 import E4M3

__all__ = ["multiply_float8", "round_rows_on_gpu"]

_LARGEST = tl.constexpr(448.0)
_LEAST_SCALE = tl.constexpr(1e-12)
_BLOCK_K = 128
"""Inputs of a step: one block of scales where there are blocks."""


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
    # A maximum that leaves NaN out would make a usable row of one that is not.
    largest = tl.reduce(tl.abs(data), 0, _larger)
    scale = tl.maximum(largest / _LARGEST, _LEAST_SCALE, propagate_nan=tl.PropagateNan.ALL)
    data = tl.clamp(data / scale, -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row * SIZE + at, data.to(tl.float8e4nv), inside)
    tl.store(scales + row, scale)


@triton.jit  # type: ignore[untyped-decorator]
def _larger(one: tl.tensor, other: tl.tensor) -> tl.tensor:
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def _multiply_kernel(
    x: tl.tensor,  # e4m3 [num_rows, num_inputs]
    weight: tl.tensor,  # e4m3 [num_outputs, num_inputs]
    out: tl.tensor,  # [num_rows, num_outputs]
    x_scale: tl.tensor,  # float32 [num_rows, number of scales]
    scale: tl.tensor,  # float32 [num_outputs] or [blocks of outputs, blocks of inputs]
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    BLOCKS: tl.constexpr,  # scales of blocks of 128 x 128, and of rows' runs of 128
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A tile of the output a program; neighbours in the launch share rows of the weight."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inputs = tl.arange(0, BLOCK_K)
    has_row, has_output = rows < num_rows, outputs < num_outputs
    x_at = x + rows.to(tl.int64)[:, None] * num_inputs + inputs[None, :]
    w_at = weight + outputs.to(tl.int64)[None, :] * num_inputs + inputs[:, None]
    steps = tl.cdiv(num_inputs, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(steps):
        has_input = inputs < num_inputs - step * BLOCK_K
        a = tl.load(x_at + step * BLOCK_K, has_row[:, None] & has_input[None, :], other=0.0)
        b = tl.load(w_at + step * BLOCK_K, has_output[None, :] & has_input[:, None], other=0.0)
        if BLOCKS:
            of_rows = tl.load(x_scale + rows * steps + step, has_row, other=0.0)
            of_outputs = tl.load(scale + (outputs // BLOCK_K) * steps + step, has_output, other=0.0)
            total += tl.dot(a, b) * of_rows[:, None] * of_outputs[None, :]
        else:
            total = tl.dot(a, b, total)
    if not BLOCKS:
        of_rows = tl.load(x_scale + rows, has_row, other=0.0)
        of_outputs = tl.load(scale + outputs, has_output, other=0.0)
        total = total * of_rows[:, None] * of_outputs[None, :]
    place = out + rows.to(tl.int64)[:, None] * num_outputs + outputs[None, :]
    tl.store(place, total.to(out.dtype.element_ty), has_row[:, None] & has_output[None, :])


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


@torch.library.custom_op("batchgen::multiply_float8", mutates_args=())
def multiply_float8(
    x: torch.Tensor,  # e4m3 [num_rows, num_inputs]
    x_scale: torch.Tensor,  # float32 [num_rows, 1], or a scale for each 128 inputs
    weight: torch.Tensor,  # e4m3 [num_outputs, num_inputs]
    scale: torch.Tensor,  # float32 [num_outputs], or one for each block of 128 x 128
    dtype: torch.dtype,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """x weight^T, sums in float32: with blocks of scales, each block of 128 inputs apart."""
    rows, outputs = x.shape[0], weight.shape[0]
    out = torch.empty(rows, outputs, dtype=dtype, device=x.device)
    block_m = min(128, max(16, triton.next_power_of_2(rows)))
    block_n = 64 if block_m < 64 or triton.cdiv(outputs, 128) * triton.cdiv(rows, 128) < 96 else 128
    grid = (triton.cdiv(rows, block_m), triton.cdiv(outputs, block_n))
    _multiply_kernel[grid](
        x, weight, out, x_scale, scale, rows, outputs, x.shape[1],
        scale.ndim == 2, block_m, block_n, _BLOCK_K,
        num_warps=8 if block_m * block_n >= 128 * 128 else 4, num_stages=4,
    )  # fmt: skip
    return out


@multiply_float8.register_fake
def _(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
