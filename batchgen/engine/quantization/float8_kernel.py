"""Products of rows with weights in float8 on CUDA, in Triton.

The weight is the product's left side: of a few rows tensor cores want many outputs at once. Where
outputs alone make too few programs to keep the memory busy, the inputs are split among some. From
some rows on torch's own product is faster, for blocks of scales too where a GPU has it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from batchgen.engine.gpu import is_hopper
from batchgen.engine.quantization.split_sums import SplitSums
from batchgen.engine.quantization.tiles import (
    Tile,
    block_tile,
    fitted,
    float8_tile,
    prefers_tiles,
)

__all__ = ["multiply_float8", "multiply_tiled"]

_BLOCK_K = 128
"""Inputs of a step: one block of scales where there are blocks."""


@triton.jit  # type: ignore[untyped-decorator]
def _multiply_kernel(
    x: tl.tensor,  # e4m3 [num_rows, num_inputs]
    weight: tl.tensor,  # e4m3 [num_outputs, num_inputs]
    out: tl.tensor,  # [num_splits, num_rows, num_outputs]
    x_scale: tl.tensor,  # float32 [num_rows, number of scales]
    scale: tl.tensor,  # float32 [num_outputs] or [blocks of outputs, blocks of inputs]
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    split_steps: tl.tensor,  # steps of a split
    row_stride: tl.tensor,  # of x_scale
    run_stride: tl.tensor,  # of x_scale
    BLOCKS: tl.constexpr,  # scales of blocks of 128 x 128, and of rows' runs of 128
    WHOLE: tl.constexpr,  # inputs are whole steps
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A tile [BLOCK_N outputs, BLOCK_M rows] of one split's sum a program."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    inputs = tl.arange(0, BLOCK_K)
    # What lies outside is read from the last row or output instead, and not stored.
    row, output = tl.minimum(rows, num_rows - 1), tl.minimum(outputs, num_outputs - 1)
    x_at = x + row.to(tl.int64)[None, :] * num_inputs + inputs[:, None]
    w_at = weight + output.to(tl.int64)[:, None] * num_inputs + inputs[None, :]
    steps = tl.cdiv(num_inputs, BLOCK_K)
    first = split * split_steps
    end = tl.minimum(first + split_steps, steps)
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if BLOCKS:
        row_at = x_scale + row * row_stride
        block_at = scale + (tl.program_id(1) * BLOCK_N // BLOCK_K) * steps
        factor = tl.load(row_at + first * run_stride) * tl.load(block_at + first)
    for step in range(first, end):
        if WHOLE:
            a = tl.load(w_at + step * BLOCK_K)
            b = tl.load(x_at + step * BLOCK_K)
        else:
            has_input = inputs < num_inputs - step * BLOCK_K
            a = tl.load(w_at + step * BLOCK_K, has_input[None, :], other=0.0)
            b = tl.load(x_at + step * BLOCK_K, has_input[:, None], other=0.0)
        if BLOCKS:  # the next step's scales are under way while this one multiplies
            after = tl.minimum(step + 1, steps - 1)
            of_rows, of_block = tl.load(row_at + after * run_stride), tl.load(block_at + after)
            total += tl.dot(a, b) * factor[None, :]
            factor = of_rows * of_block
        else:
            total = tl.dot(a, b, total)
    if not BLOCKS:
        total = total * tl.load(scale + output)[:, None]
        total = total * tl.load(x_scale + row * row_stride)[None, :]
    place = out + (split * num_rows + rows.to(tl.int64))[None, :] * num_outputs + outputs[:, None]
    inside = (outputs < num_outputs)[:, None] & (rows < num_rows)[None, :]
    tl.store(place, total.to(out.dtype.element_ty), inside)


@torch.library.custom_op("batchgen::multiply_float8", mutates_args=())
def multiply_float8(
    x: torch.Tensor,  # e4m3 [num_rows, num_inputs]
    x_scale: torch.Tensor,  # float32 [num_rows, 1], or a scale for each 128 inputs
    weight: torch.Tensor,  # e4m3 [num_outputs, num_inputs]
    scale: torch.Tensor,  # float32 [num_outputs], or one for each block of 128 x 128
    dtype: torch.dtype,
    scaled_mm: bool,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """x weight^T, sums in float32: with blocks of scales, each block of 128 inputs apart.
    `scaled_mm`: torch's own product is right here, and may be taken where it is faster."""
    rows, blocks = x.shape[0], scale.ndim == 2
    if scaled_mm and not prefers_tiles(rows, weight.shape[0], blocks=blocks):
        if not blocks:
            return torch._scaled_mm(
                x, weight.t(), scale_a=x_scale, scale_b=scale[None], out_dtype=dtype,
                use_fast_accum=True,
            )  # fmt: skip
        if dtype == torch.bfloat16 and _has_block_product(weight):
            return _multiply_blocks(x, x_scale, weight, scale, dtype)
    cut = block_tile if blocks else float8_tile
    return multiply_tiled(x, x_scale, weight, scale, dtype, cut(rows, *weight.shape))


@multiply_float8.register_fake
def _(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    scaled_mm: bool,
) -> torch.Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)


def multiply_tiled(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
    tile: Tile,
) -> torch.Tensor:
    """As `multiply_float8`, cut as the tile says."""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    tile = fitted(tile, _BLOCK_K * (tile.rows + tile.outputs), x.device)
    steps = triton.cdiv(inputs, _BLOCK_K)
    sums = SplitSums.empty(rows, outputs, steps, tile.splits, x, dtype)
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs), len(sums.parts))
    _multiply_kernel[grid](
        x, weight, sums.parts, x_scale, scale, rows, outputs, inputs, sums.steps,
        x_scale.stride(0), x_scale.stride(1), scale.ndim == 2, inputs % _BLOCK_K == 0,
        tile.rows, tile.outputs, _BLOCK_K, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return sums.total()


def _has_block_product(weight: torch.Tensor) -> bool:
    """Whether torch multiplies with scales of blocks there: on Hopper, and for a weight whose
    scales' rows begin at 16 bytes each."""
    outputs, inputs = weight.shape
    aligned = outputs % _BLOCK_K == 0 and inputs % (4 * _BLOCK_K) == 0
    return aligned and is_hopper(weight.device)


def _multiply_blocks(
    x: torch.Tensor,
    x_scale: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """By torch's product, which wants rows in sixteens and the scales of a run side by side."""
    functional, rows = torch.nn.functional, x.shape[0]
    more = -rows % 16
    if more:
        x = functional.pad(x.view(torch.uint8), (0, 0, 0, more)).view(x.dtype)
        x_scale = functional.pad(x_scale, (0, 0, 0, more))
    kinds = functional.ScalingType
    out: torch.Tensor = functional.scaled_mm(
        x, weight.t(), x_scale.t().contiguous().t(), kinds.BlockWise1x128,
        scale.t(), kinds.BlockWise128x128, output_dtype=dtype,
    )  # fmt: skip
    return out[:rows].contiguous() if more else out
