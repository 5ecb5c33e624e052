"""A linear layer whose sums have one order, whatever the number of rows: x weight^T + bias.

The inputs of a layer are cut in `segments`, by its shape and the card. An output is the sum of its
segments in their order, and a segment one chain of products, BLOCK_K inputs after BLOCK_K. The
number of rows decides what changes no sum: how many rows share a tile, as further rows of the same
instructions, and whether one program adds up all segments of a tile or several compute one each and
the last to arrive adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl

from batchgen.engine.attention.triton.device import num_sms

__all__ = ["ProductTile", "multiply", "steady_linear", "tile_of"]

_FEW_OUTPUTS = 2048
"""A layer of so few outputs is cut finer, so that it has work for more multiprocessors."""
_MOST_SEGMENTS = 4
_LEAST_SEGMENT = 512
"""Inputs: shorter ones spend more time on adding up than they save."""
_GROUP = tl.constexpr(16)
"""Tiles of rows that go through all outputs together: their inputs stay in the L2 cache."""


@dataclass(frozen=True, slots=True)
class ProductTile:
    """How one product is cut."""

    block_m: int
    block_n: int
    block_k: int
    segments: int
    spread: bool
    """Whether each segment has a program of its own."""
    num_warps: int
    num_stages: int


@lru_cache(maxsize=4096)
def tile_of(
    num_rows: int, num_outputs: int, num_inputs: int, dtype: torch.dtype, sms: int
) -> ProductTile:
    """By the layer's shape and the card's multiprocessors. By the rows only `block_m`, `spread`,
    `num_warps` and `num_stages`."""
    if dtype == torch.float32:
        return ProductTile(64, 64, 32, 1, False, 4, 2)
    block_n = 64 if num_outputs <= _FEW_OUTPUTS else 128
    across = triton.cdiv(num_outputs, block_n)
    segments = 1
    while 2 * segments <= min(_MOST_SEGMENTS, sms // across, num_inputs // _LEAST_SEGMENT):
        segments *= 2
    tall = num_rows > 64 and triton.cdiv(num_rows, 128) * across >= sms
    block_m = 128 if tall else 64
    spread = segments > 1 and triton.cdiv(num_rows, block_m) * across < sms
    stages = 3 if tall and segments == 1 else 4  # two such programs fit a multiprocessor
    return ProductTile(block_m, block_n, 64, segments, spread, 8 if tall else 4, stages)


@triton.jit  # type: ignore[untyped-decorator]
def _segment(
    x_rows: tl.tensor,
    weights: tl.tensor,
    row_there: tl.tensor,
    output_there: tl.tensor,
    segment: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """One segment of a tile's sums, float32 [BLOCK_M, BLOCK_N]."""
    STEPS: tl.constexpr = (NUM_INPUTS + BLOCK_K * SEGMENTS - 1) // (BLOCK_K * SEGMENTS)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(STEPS):
        inputs = (segment * STEPS + step) * BLOCK_K + tl.arange(0, BLOCK_K)
        a_there, b_there = row_there[:, None], output_there[None, :]
        if NUM_INPUTS % (BLOCK_K * SEGMENTS) != 0:
            a_there = a_there & (inputs < NUM_INPUTS)[None, :]
            b_there = b_there & (inputs < NUM_INPUTS)[:, None]
        a = tl.load(x_rows + inputs[None, :], mask=a_there, other=0.0)
        b = tl.load(weights + inputs[:, None], mask=b_there, other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit(do_not_specialize=["num_rows"])  # type: ignore[untyped-decorator]
def _product_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    arrived: tl.tensor,
    num_rows: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_OUTPUTS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SPREAD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Grid: tiles, or with SPREAD tiles * SEGMENTS.

    parts: float32 [tiles, SEGMENTS, BLOCK_M, BLOCK_N]; arrived: int32 [tiles], zeros, and again
    zeros at the end. Both only with SPREAD.
    """
    tile = tl.program_id(0) // SEGMENTS if SPREAD else tl.program_id(0)
    # Tiles of the same outputs follow each other, so that their weights are read once from memory.
    tiles_m = tl.cdiv(num_rows, BLOCK_M)
    across = _GROUP * tl.cdiv(NUM_OUTPUTS, BLOCK_N)
    first_m = tile // across * _GROUP
    high = tl.minimum(tiles_m - first_m, _GROUP)
    rows = (first_m + tile % across % high) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tile % across // high * BLOCK_N + tl.arange(0, BLOCK_N)
    row_there, output_there = rows < num_rows, outputs < NUM_OUTPUTS
    x_rows = x + rows.to(tl.int64)[:, None] * NUM_INPUTS
    weights = weight + outputs.to(tl.int64)[None, :] * NUM_INPUTS
    acc = _segment(
        *(x_rows, weights, row_there, output_there, tl.program_id(0) % SEGMENTS if SPREAD else 0),
        *(NUM_INPUTS, SEGMENTS, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
    )
    last = True
    if SPREAD:
        place = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        mine = parts + tl.program_id(0).to(tl.int64) * (BLOCK_M * BLOCK_N)
        tl.store(mine + place, acc)
        tl.debug_barrier()  # all threads' stores come before this program's arrival
        last = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SEGMENTS - 1
        if last:
            tl.store(arrived + tile, 0)
            first = parts + tile.to(tl.int64) * (SEGMENTS * BLOCK_M * BLOCK_N)
            acc = tl.load(first + place, cache_modifier=".cg")
            for segment in range(1, SEGMENTS):
                at = first + segment * (BLOCK_M * BLOCK_N)
                acc += tl.load(at + place, cache_modifier=".cg")
    else:
        for segment in range(1, SEGMENTS):
            acc += _segment(
                *(x_rows, weights, row_there, output_there, segment),
                *(NUM_INPUTS, SEGMENTS, BLOCK_M, BLOCK_N, BLOCK_K, PRECISION),
            )
    if last:
        if HAS_BIAS:
            acc += tl.load(bias + outputs, mask=output_there, other=0.0).to(tl.float32)[None, :]
        tl.store(
            out + rows.to(tl.int64)[:, None] * NUM_OUTPUTS + outputs[None, :],
            acc.to(out.dtype.element_ty),
            mask=row_there[:, None] & output_there[None, :],
        )


@lru_cache
def _arrivals(device: torch.device, count: int) -> torch.Tensor:
    """Zeros that the kernel leaves as such: made once, so not within a capture."""
    return torch.zeros(count, dtype=torch.int32, device=device)


def multiply(
    x: torch.Tensor,  # [num_rows, num_inputs], dense
    weight: torch.Tensor,  # [num_outputs, num_inputs], dense
    bias: torch.Tensor | None,  # [num_outputs]
    tile: ProductTile,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """One launch; may be captured. One at a time on a device."""
    num_rows, num_inputs = x.shape
    num_outputs = weight.shape[0]
    out = x.new_empty(num_rows, num_outputs)
    tiles = triton.cdiv(num_rows, tile.block_m) * triton.cdiv(num_outputs, tile.block_n)
    programs = tiles * tile.segments if tile.spread else tiles
    if not tiles:
        return out
    size = programs * tile.block_m * tile.block_n if tile.spread else 0
    parts = x.new_empty(size, dtype=torch.float32)
    arrived = _arrivals(x.device, num_sms(x.device)) if tile.spread else parts
    _product_kernel[(programs,)](
        x,
        weight,
        out if bias is None else bias,
        out,
        parts,
        arrived,
        num_rows,
        NUM_INPUTS=num_inputs,
        NUM_OUTPUTS=num_outputs,
        HAS_BIAS=bias is not None,
        SEGMENTS=tile.segments,
        SPREAD=tile.spread,
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
    tile = tile_of(len(rows), *weight.shape, x.dtype, num_sms(x.device))
    out = multiply(rows, weight.contiguous(), bias, tile)
    return out.view(*x.shape[:-1], weight.shape[0])


@steady_linear.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
