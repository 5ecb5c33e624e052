"""A linear layer whose sums have one order, whatever the number of rows: x weight^T + bias.

A tile of the output is one chain of products along the inputs, BLOCK_K after BLOCK_K, never split
among programs. Steps with more rows than a small tile has take a taller one, whose rows are further
rows of the same instructions: which rows share a tile changes, the order of no sum does. So what
may differ between layers, by their shapes, and between cards is in `tile_of`; nothing there but
`block_m` and `num_warps` asks for the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from batchgen.engine.attention.triton.device import num_sms

__all__ = ["ProductTile", "multiply", "steady_linear", "tile_of"]

_FEW_ROWS = 64
_FEW_OUTPUTS = 2048
"""A layer of so few outputs is cut finer, so that it has work for more multiprocessors."""


@dataclass(frozen=True, slots=True)
class ProductTile:
    """How one product is cut."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


def tile_of(num_rows: int, num_outputs: int, dtype: torch.dtype) -> ProductTile:
    """By the layer's outputs; rows decide only how many of them share a tile."""
    if dtype == torch.float32:
        return ProductTile(64, 64, 32, 4, 2)
    block_n = 64 if num_outputs <= _FEW_OUTPUTS else 128
    if num_rows <= _FEW_ROWS:
        return ProductTile(64, block_n, 64, 4, 4)
    return ProductTile(128, block_n, 64, 8, 4)


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _product_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Grid: any number of programs; each takes every so many-th tile."""
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    num_tiles = tiles_m * tl.cdiv(NUM_OUTPUTS, BLOCK_N)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        # Tiles of the same outputs follow each other: their weights are read once from memory.
        rows = tile % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
        outputs = tile // tiles_m * BLOCK_N + tl.arange(0, BLOCK_N)
        row_there, output_there = rows < num_rows, outputs < NUM_OUTPUTS
        x_rows = x + rows.to(tl.int64)[:, None] * NUM_INPUTS
        weights = weight + outputs.to(tl.int64)[None, :] * NUM_INPUTS
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for first in range(0, NUM_INPUTS, BLOCK_K):
            inputs = first + tl.arange(0, BLOCK_K)
            a_there, b_there = row_there[:, None], output_there[None, :]
            if NUM_INPUTS % BLOCK_K != 0:
                a_there = a_there & (inputs < NUM_INPUTS)[None, :]
                b_there = b_there & (inputs < NUM_INPUTS)[:, None]
            a = tl.load(x_rows + inputs[None, :], mask=a_there, other=0.0)
            b = tl.load(weights + inputs[:, None], mask=b_there, other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if HAS_BIAS:
            acc += tl.load(bias + outputs, mask=output_there, other=0.0).to(tl.float32)[None, :]
        tl.store(
            out + rows.to(tl.int64)[:, None] * NUM_OUTPUTS + outputs[None, :],
            acc.to(out.dtype.element_ty),
            mask=row_there[:, None] & output_there[None, :],
        )


def multiply(
    x: torch.Tensor,  # [num_rows, num_inputs], dense
    weight: torch.Tensor,  # [num_outputs, num_inputs], dense
    bias: torch.Tensor | None,  # [num_outputs]
    tile: ProductTile,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """One launch; may be captured."""
    num_rows, num_inputs = x.shape
    num_outputs = weight.shape[0]
    out = x.new_empty(num_rows, num_outputs)
    tiles = triton.cdiv(num_rows, tile.block_m) * triton.cdiv(num_outputs, tile.block_n)
    if not tiles:
        return out
    _product_kernel[(min(tiles, 2 * num_sms(x.device)),)](
        x,
        weight,
        out if bias is None else bias,
        out,
        num_rows,
        NUM_INPUTS=num_inputs,
        NUM_OUTPUTS=num_outputs,
        HAS_BIAS=bias is not None,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32",
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


@torch.library.custom_op("batchgen::steady_linear", mutates_args=())
def steady_linear(
    x: torch.Tensor,  # [..., num_inputs]
    weight: torch.Tensor,  # [num_outputs, num_inputs]
    bias: torch.Tensor | None = None,
) -> torch.Tensor:  # [..., num_outputs]
    """x weight^T + bias, one operator for compiled layers too."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    tile = tile_of(len(rows), weight.shape[0], x.dtype)
    out = multiply(rows, weight.contiguous(), bias, tile)
    return out.view(*x.shape[:-1], weight.shape[0])


@steady_linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
