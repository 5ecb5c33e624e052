"""4-bit weights on CUDA: products that dequantise in registers, and whole weights for many rows.

Codes lie in bytes as `packing` says, so nothing has to be shuffled. The weight is the product's
left side, which tensor cores take from registers; so a tile's rows are outputs, its columns tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["multiply_integers"]

_DENSE_ROWS = 1024
"""From here on a dequantised copy costs less than a dense product gains."""
_PROGRAMS = 264
"""Of a Hopper GPU at once, two on each of its cores, so that one dequantises while the other
multiplies; the inputs are split where outputs alone make fewer."""
_MOST_SPLITS = 8


@triton.jit  # type: ignore[untyped-decorator]
def _weights(
    codes: tl.tensor,  # uint8 [outputs, HALF], 0 to 15
    scales: tl.tensor,
    zeros: tl.tensor,
    group: tl.tensor,
    outputs: tl.tensor,
    has_output: tl.tensor,
    stride: tl.tensor,  # of a group
    dtype: tl.constexpr,
) -> tl.tensor:
    """Codes of one group, dequantised in float32 and rounded once."""
    at = group.to(tl.int64) * stride + outputs
    scale = tl.load(scales + at, has_output, other=0.0).to(tl.float32)
    zero = tl.load(zeros + at, has_output, other=0).to(tl.float32)
    return ((codes.to(tl.float32) - zero[:, None]) * scale[:, None]).to(dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _multiply_kernel(
    x: tl.tensor,  # [num_rows, num_inputs]
    packed: tl.tensor,  # uint8 [num_outputs, num_inputs / 2]
    scales: tl.tensor,  # [num_groups, num_outputs]
    zeros: tl.tensor,  # uint8 [num_groups, num_outputs]
    out: tl.tensor,  # [num_splits, num_rows, num_outputs]
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    split_steps: tl.tensor,  # steps of a split
    stride: tl.tensor,  # of a group
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """A tile [BLOCK_N outputs, BLOCK_M rows] of one split's sum a program."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    has_row, has_output = rows < num_rows, outputs < num_outputs
    places = tl.arange(0, HALF)
    x_at = x + rows.to(tl.int64)[None, :] * num_inputs + places[:, None]
    p_at = packed + outputs.to(tl.int64)[:, None] * (num_inputs // 2) + places[None, :]
    first = split * split_steps
    end = tl.minimum(first + split_steps, num_inputs // (2 * HALF))
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for step in range(first, end):
        codes = tl.load(p_at + step * HALF, has_output[:, None], other=0)
        start = step * 2 * HALF
        low = tl.load(x_at + start, has_row[None, :], other=0.0)
        high = tl.load(x_at + start + HALF, has_row[None, :], other=0.0)
        weights = _weights(
            codes & 15, scales, zeros, start // GROUP, outputs, has_output, stride, low.dtype
        )
        total = tl.dot(weights, low, total)
        weights = _weights(
            codes >> 4, scales, zeros, (start + HALF) // GROUP, outputs, has_output, stride,
            low.dtype,
        )  # fmt: skip
        total = tl.dot(weights, high, total)
    place = out + (split * num_rows + rows.to(tl.int64))[None, :] * num_outputs + outputs[:, None]
    tl.store(place, total.to(out.dtype.element_ty), has_output[:, None] & has_row[None, :])


@triton.jit  # type: ignore[untyped-decorator]
def _dense_kernel(
    packed: tl.tensor,
    scales: tl.tensor,
    zeros: tl.tensor,
    out: tl.tensor,  # [num_outputs, num_inputs]
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    stride: tl.tensor,
    GROUP: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Some outputs' inputs of a step a program."""
    step = tl.program_id(0)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    has_output = outputs < num_outputs
    places = tl.arange(0, HALF)
    row = outputs.to(tl.int64)[:, None]
    codes = tl.load(
        packed + row * (num_inputs // 2) + step * HALF + places[None, :],
        has_output[:, None], other=0,
    )  # fmt: skip
    for part in tl.static_range(2):
        start = step * 2 * HALF + part * HALF
        weights = _weights(
            (codes >> (4 * part)) & 15, scales, zeros, start // GROUP, outputs, has_output, stride,
            out.dtype.element_ty,
        )  # fmt: skip
        tl.store(out + row * num_inputs + start + places[None, :], weights, has_output[:, None])


@torch.library.custom_op("batchgen::multiply_integers", mutates_args=())
def multiply_integers(
    x: torch.Tensor,  # [num_rows, num_inputs]
    packed: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    half: int,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """x weight^T, weights in x's dtype, sums in float32."""
    x = x.contiguous()
    if x.shape[0] >= _DENSE_ROWS:
        return torch.mm(x, _dense(x, packed, scales, zeros, half).T)
    rows, outputs, inputs = x.shape[0], packed.shape[0], x.shape[1]
    block_m = min(128, max(16, triton.next_power_of_2(rows)))
    block_n = 128 if block_m < 128 else 64
    tiles = triton.cdiv(rows, block_m) * triton.cdiv(outputs, block_n)
    steps = inputs // (2 * half)
    splits = max(1, min(_MOST_SPLITS, _PROGRAMS // tiles, steps // 4))
    split_steps = triton.cdiv(steps, splits)
    splits = triton.cdiv(steps, split_steps)
    dtype = x.dtype if splits == 1 else torch.float32
    out = torch.empty(splits, rows, outputs, dtype=dtype, device=x.device)
    grid = (triton.cdiv(rows, block_m), triton.cdiv(outputs, block_n), splits)
    _multiply_kernel[grid](
        x, packed, scales, zeros, out, rows, outputs, inputs, split_steps, scales.stride(0),
        inputs // scales.shape[0], half, block_m, block_n,
        num_warps=4, num_stages=3 if block_m == 128 else 4,
    )  # fmt: skip
    return out[0] if splits == 1 else out.sum(0).to(x.dtype)


@multiply_integers.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, half: int
) -> torch.Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


def _dense(
    x: torch.Tensor, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, half: int
) -> torch.Tensor:
    """The weight in x's dtype, for this product alone."""
    outputs, inputs = packed.shape[0], x.shape[1]
    out = torch.empty(outputs, inputs, dtype=x.dtype, device=x.device)
    grid = (inputs // (2 * half), triton.cdiv(outputs, 64))
    _dense_kernel[grid](
        packed, scales, zeros, out, outputs, inputs, scales.stride(0),
        inputs // scales.shape[0], half, 64,
    )  # fmt: skip
    return out
