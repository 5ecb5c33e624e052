"""A linear layer whose sums have one order, whatever the number of rows: x weight^T + bias.

An output is one chain of products, from the first of the layer's inputs to the last. The number of
rows decides what changes no sum: how many rows and outputs share a tile, and how many warps compute
it. Most of the library's kernels add up in this order too: see `library`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

__all__ = ["ProductTile", "multiply", "tile_of"]

_GROUP = tl.constexpr(16)
"""Tiles of rows that go through all outputs together: their inputs stay in the L2 cache."""


@dataclass(frozen=True, slots=True)
class ProductTile:
    """How one product is cut."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


_LARGE_TO_SMALL = (
    (ProductTile(128, 128, 64, 8, 3), 0.9),
    (ProductTile(64, 128, 64, 4, 4), 0.9),
    (ProductTile(64, 64, 64, 4, 6), 0.7),
)
"""Tiles, and the share of the multiprocessors that each must have work for: measured on an H200."""
_SMALLEST = ProductTile(64, 32, 64, 4, 6)


@lru_cache(maxsize=4096)
def tile_of(num_rows: int, num_outputs: int, dtype: torch.dtype, sms: int) -> ProductTile:
    """The largest tile that leaves few of a card's `sms` multiprocessors idle."""
    if dtype == torch.float32:
        return ProductTile(64, 64, 32, 4, 2)
    for tile, least in _LARGE_TO_SMALL:
        count = triton.cdiv(num_rows, tile.block_m) * triton.cdiv(num_outputs, tile.block_n)
        if count >= least * sms and num_rows > tile.block_m // 2:
            return tile
    return _SMALLEST


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
    """Grid: tiles. Those of the same outputs follow each other: their weights are read once."""
    tile = tl.program_id(0)
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    across = _GROUP * tl.cdiv(NUM_OUTPUTS, BLOCK_N)
    first_m = tile // across * _GROUP
    high = tl.minimum(tiles_m - first_m, _GROUP)
    rows = (first_m + tile % across % high) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tile % across // high * BLOCK_N + tl.arange(0, BLOCK_N)
    row_there, output_there = (rows < num_rows)[:, None], (outputs < NUM_OUTPUTS)[None, :]
    x_rows = x + rows.to(tl.int64)[:, None] * NUM_INPUTS
    weights = weight + outputs.to(tl.int64)[None, :] * NUM_INPUTS
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, NUM_INPUTS, BLOCK_K):
        inputs = first + tl.arange(0, BLOCK_K)
        a_there, b_there = row_there, output_there
        if NUM_INPUTS % BLOCK_K != 0:
            a_there = a_there & (inputs < NUM_INPUTS)[None, :]
            b_there = b_there & (inputs < NUM_INPUTS)[:, None]
        a = tl.load(x_rows + inputs[None, :], mask=a_there, other=0.0)
        b = tl.load(weights + inputs[:, None], mask=b_there, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + outputs[None, :], mask=output_there, other=0.0).to(tl.float32)
    tl.store(
        out + rows.to(tl.int64)[:, None] * NUM_OUTPUTS + outputs[None, :],
        acc.to(out.dtype.element_ty),
        mask=row_there & output_there,
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
    programs = triton.cdiv(num_rows, tile.block_m) * triton.cdiv(num_outputs, tile.block_n)
    if not programs:
        return out
    _product_kernel[(programs,)](
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
