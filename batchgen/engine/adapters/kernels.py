"""Products of adapters for the tokens of a step, those of one adapter together, on CUDA, in Triton.

Two launches for a layer: x A^T, whose sums over the inputs are cut in splits so that few tokens
fill a GPU too, and that times B^T, added to the layer's own outputs in place. Grouped products with
a small inner size as in Punica (arXiv:2310.18547); which tokens go together is found once a step
(`mixture.sorting`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from batchgen.engine.gpu import num_sms
from batchgen.engine.mixture.sorting import Sorted, tile_at
from batchgen.engine.quantization.tiles import fitting_stages

__all__ = ["LEAST_RANK", "add_products", "tile_rows"]

LEAST_RANK = 16
"""What tensor cores multiply at once; ranks are padded to powers of two from here on."""
_PROGRAMS = 2
"""For each multiprocessor, where so many find work."""
_LEAST_SPLIT = 256
"""Inputs that a program should sum at least: what comes out is written and read once more."""


@triton.jit(do_not_specialize=["num_tokens", "steps_per_split"])  # type: ignore[untyped-decorator]
def _shrink_kernel(
    x: tl.tensor,  # [num_tokens, num_inputs]
    a: tl.tensor,  # [num_adapters, RANK, num_inputs]
    part: tl.tensor,  # float32 [splits, num_tokens, RANK], in the order of `order`
    order: tl.tensor,  # int32 [num_tokens]
    tiles: tl.tensor,  # int32 [.., 3]
    num_tiles: tl.tensor,  # int32 [1]
    num_tokens: tl.tensor,
    num_inputs: tl.tensor,
    steps_per_split: tl.tensor,
    WHOLE: tl.constexpr,  # inputs are whole steps
    RANK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A tile of tokens and a split of the inputs a program."""
    tile, split = tl.program_id(0), tl.program_id(1)
    if tile >= tl.load(num_tiles):
        return
    adapter, first, end = tile_at(tiles, tile)
    rows, ranks = first + tl.arange(0, BLOCK_M), tl.arange(0, RANK)
    # What lies outside is read from the last token instead, and not stored.
    tokens = tl.load(order + tl.minimum(rows, end - 1)).to(tl.int64)
    x_at = x + tokens[:, None] * num_inputs
    a_at = a + (adapter * RANK + ranks)[None, :] * num_inputs
    total = tl.zeros([BLOCK_M, RANK], tl.float32)
    begin = split * steps_per_split * BLOCK_K
    stop = tl.minimum(begin + steps_per_split * BLOCK_K, num_inputs)
    for start in range(begin, stop, BLOCK_K):
        inputs = start + tl.arange(0, BLOCK_K)
        if WHOLE:  # with a mask, numbers would be loaded one by one
            left, right = tl.load(x_at + inputs[None, :]), tl.load(a_at + inputs[:, None])
        else:
            inside = inputs < stop
            left = tl.load(x_at + inputs[None, :], inside[None, :], other=0.0)
            right = tl.load(a_at + inputs[:, None], inside[:, None], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    place = part + (split * num_tokens + rows)[:, None].to(tl.int64) * RANK + ranks[None, :]
    tl.store(place, total, (rows < end)[:, None])


@triton.jit(do_not_specialize=["num_tokens", "splits"])  # type: ignore[untyped-decorator]
def _expand_kernel(
    part: tl.tensor,  # float32 [splits, num_tokens, RANK], in the order of `order`
    b: tl.tensor,  # [num_adapters, num_outputs, RANK]
    y: tl.tensor,  # [num_tokens, num_outputs]
    order: tl.tensor,  # int32 [num_tokens]
    tiles: tl.tensor,  # int32 [.., 3]
    num_tiles: tl.tensor,  # int32 [1]
    num_tokens: tl.tensor,
    num_outputs: tl.tensor,
    splits: tl.tensor,
    RANK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Some outputs of a tile of tokens a program."""
    tile = tl.program_id(0)
    if tile >= tl.load(num_tiles):
        return
    adapter, first, end = tile_at(tiles, tile)
    rows, ranks = first + tl.arange(0, BLOCK_M), tl.arange(0, RANK)
    row = tl.minimum(rows, end - 1)
    inner = tl.zeros([BLOCK_M, RANK], tl.float32)
    for split in range(splits):
        row_at = part + (split * num_tokens + row)[:, None].to(tl.int64) * RANK
        inner += tl.load(row_at + ranks[None, :])
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = outputs < num_outputs
    b_at = b + (adapter * num_outputs + outputs)[None, :] * RANK + ranks[:, None]
    right = tl.load(b_at, inside[None, :], other=0.0)
    found = tl.dot(inner.to(right.dtype), right, input_precision="ieee")
    tokens = tl.load(order + row).to(tl.int64)
    place = y + tokens[:, None] * num_outputs + outputs[None, :]
    stored = (rows < end)[:, None] & inside[None, :]
    found += tl.load(place, stored, other=0.0).to(tl.float32)
    tl.store(place, found.to(y.dtype.element_ty), stored)


def tile_rows(num_tokens: int) -> int:
    """Tokens of a tile in a step of so many."""
    return 16 if num_tokens <= 512 else 32 if num_tokens <= 2048 else 64


def add_products(
    x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, tokens: Sorted, rows: int
) -> None:
    """y += x A^T B^T, for each token by its adapter; a token without one is left as it is.

    x [num_tokens, num_inputs], y [num_tokens, num_outputs], both contiguous;
    a [num_adapters, rank, num_inputs], b [num_adapters, num_outputs, rank] with a rank that is a
    power of two, at least `LEAST_RANK`; `tokens` in tiles of `rows`, a pair for each token.
    """
    (num_tokens, inputs), (outputs, rank) = x.shape, b.shape[1:]
    most = tokens.most_tiles
    splits = max(1, min(_PROGRAMS * num_sms(x.device) // most, triton.cdiv(inputs, _LEAST_SPLIT)))
    step = 32 if x.dtype == torch.float32 or rank > 64 else 128
    steps = triton.cdiv(triton.cdiv(inputs, step), splits)
    splits = triton.cdiv(inputs, steps * step)
    stages = fitting_stages(3, (rows + rank) * step * x.dtype.itemsize, x.device)
    part = torch.empty(splits, num_tokens, rank, dtype=torch.float32, device=x.device)
    _shrink_kernel[most, splits](
        x, a, part, tokens.order, tokens.tiles, tokens.num_tiles, num_tokens, inputs, steps,
        inputs % step == 0, rank, rows, step, num_warps=4, num_stages=stages,
    )  # fmt: skip
    width = 128 if rank <= 64 and x.dtype != torch.float32 else 32
    _expand_kernel[most, triton.cdiv(outputs, width)](
        part, b, y, tokens.order, tokens.tiles, tokens.num_tiles, num_tokens, outputs, splits,
        rank, rows, width, num_warps=4, num_stages=1,
    )  # fmt: skip
