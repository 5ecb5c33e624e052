"""4-bit weights on Hopper, in Gluon: one warp fetches, warp groups dequantise and multiply.

As in `integer_kernel.py` the weight is the product's left side, dequantised in registers. Here x
and the words of codes come through the copy engine (TMA), some steps ahead. A step is taken in two
halves: while one's products run, the other is dequantised.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from batchgen.engine.gpu import num_sms
from batchgen.engine.quantization.hopper_weights import half_step, steps_of
from batchgen.engine.quantization.split_sums import SplitSums
from batchgen.engine.quantization.tiles import Tile

__all__ = ["RUN", "multiply_on_hopper"]

RUN = 32
"""The distance of a word's codes; a step is the 128 inputs of 32 words."""
_X_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
_WORDS_LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=16, rank=2)

_copy = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
"""Its name since Triton 3.7, or the one before."""


@gluon.jit  # type: ignore[untyped-decorator]
def _place(
    tile: gl.tensor,
    num_rows: gl.tensor,
    num_outputs: gl.tensor,
    num_inputs: gl.tensor,
    split_steps: gl.tensor,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    RUN: gl.constexpr,
) -> gl.tuple:
    """Its first row and output, its split, and that split's first step and end."""
    across = (num_rows + BLOCK_M - 1) // BLOCK_M
    down = (num_outputs + BLOCK_N - 1) // BLOCK_N
    split = tile // (across * down)
    first = split * split_steps
    end = gl.minimum(first + split_steps, num_inputs // (4 * RUN))
    return tile % across * BLOCK_M, tile // across % down * BLOCK_N, split, first, end


@gluon.jit  # type: ignore[untyped-decorator]
def _fetch(
    x: tma.tensor_descriptor,
    packed: tma.tensor_descriptor,
    xs: gl.shared_memory_descriptor,  # [2 STAGES, BLOCK_M, 2 RUN]
    words: gl.shared_memory_descriptor,  # [STAGES, BLOCK_N, RUN]
    full: gl.shared_memory_descriptor,  # a barrier a stage: what was asked for is there
    empty: gl.shared_memory_descriptor,  # nothing reads it any more
    num_rows: gl.tensor,
    num_outputs: gl.tensor,
    num_inputs: gl.tensor,
    split_steps: gl.tensor,
    num_tiles: gl.tensor,
    RUN: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
) -> None:
    """The part of the one warp. What lies outside x or the weight arrives as zeros."""
    count = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        row, output, _, first, end = _place(
            tile, num_rows, num_outputs, num_inputs, split_steps, BLOCK_M, BLOCK_N, RUN
        )
        for step in range(first, end):
            done = count + step - first
            stage = done % STAGES
            mbarrier.wait(empty.index(stage), ((done // STAGES) & 1) ^ 1)
            arrived = full.index(stage)
            mbarrier.expect(arrived, 2 * x.block_type.nbytes + packed.block_type.nbytes)
            start = step * 4 * RUN
            _copy(packed, [output, step * RUN], arrived, words.index(stage))
            _copy(x, [row, start], arrived, xs.index(2 * stage))
            _copy(x, [row, start + 2 * RUN], arrived, xs.index(2 * stage + 1))
        count += end - first


@gluon.jit  # type: ignore[untyped-decorator]
def _multiply_tile(
    xs: gl.shared_memory_descriptor,
    words: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor,
    steps_at: gl.tensor,  # of the outputs, in the first group
    stride: gl.tensor,  # of a group
    first: gl.tensor,
    end: gl.tensor,
    count: gl.tensor,  # of steps before
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    SUMS: gl.constexpr,  # where a warp group has its sums,
    LEFT: gl.constexpr,  # and the left sides of products
    dtype: gl.constexpr,
) -> gl.tensor:
    """Sums [BLOCK_N outputs, BLOCK_M rows] over a split's steps."""
    gl.assume(end > first)  # beside a path without products none would overlap
    total = gl.zeros([BLOCK_N, BLOCK_M], gl.float32, layout=SUMS)
    following = steps_of(steps_at, first, stride, GROUP, RUN)
    for step in range(first, end):
        done = count + step - first
        stage = done % STAGES
        mbarrier.wait(full.index(stage), (done // STAGES) & 1)
        codes = words.index(stage).load(LEFT)
        one, two, three, four = following
        following = steps_of(steps_at, gl.minimum(step + 1, end - 1), stride, GROUP, RUN)
        left = half_step(codes, one, two, dtype, 0, GROUP, LEFT)
        right = xs.index(2 * stage).permute((1, 0))
        total = warpgroup_mma(left, right, total, is_async=True)
        total = warpgroup_mma_wait(1, deps=[total])  # so the stage before is read
        mbarrier.arrive(empty.index((done + STAGES - 1) % STAGES), pred=step > first)
        left = half_step(codes, three, four, dtype, 1, GROUP, LEFT)
        right = xs.index(2 * stage + 1).permute((1, 0))
        total = warpgroup_mma(left, right, total, is_async=True)
        # One more in flight, and ptxas has the next left side overwrite one that is still read.
        total = warpgroup_mma_wait(1, deps=[total])
    total = warpgroup_mma_wait(0, deps=[total])
    mbarrier.arrive(empty.index((count + end - first - 1) % STAGES))
    return total


@gluon.jit  # type: ignore[untyped-decorator]
def _multiply(
    xs: gl.shared_memory_descriptor,
    words: gl.shared_memory_descriptor,
    full: gl.shared_memory_descriptor,
    empty: gl.shared_memory_descriptor,
    steps: gl.tensor,
    out: gl.tensor,
    num_rows: gl.tensor,
    num_outputs: gl.tensor,
    num_inputs: gl.tensor,
    split_steps: gl.tensor,
    stride: gl.tensor,
    num_tiles: gl.tensor,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
    dtype: gl.constexpr,
) -> None:
    """The part of the warp groups."""
    SUMS: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[gl.num_warps(), 1], instr_shape=[16, BLOCK_M, 16]
    )
    LEFT: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=SUMS, k_width=2)
    # Of a warp's 16 outputs a thread stores 8, of as many rows as there are pairs of threads.
    STORED: gl.constexpr = gl.BlockedLayout([8, 1], [2, 16], [gl.num_warps(), 1], [0, 1])
    count = 0
    for tile in range(gl.program_id(0), num_tiles, gl.num_programs(0)):
        row, output, split, first, end = _place(
            tile, num_rows, num_outputs, num_inputs, split_steps, BLOCK_M, BLOCK_N, RUN
        )
        outputs = output + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, LEFT))
        total = _multiply_tile(
            xs, words, full, empty, steps + gl.minimum(outputs, num_outputs - 1), stride,
            first, end, count, GROUP, RUN, BLOCK_M, BLOCK_N, STAGES, SUMS, LEFT, dtype,
        )  # fmt: skip
        count += end - first
        kept = gl.convert_layout(total.to(out.dtype.element_ty), STORED)
        outputs = output + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(1, STORED))
        rows = row + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(0, STORED))
        at = (split * num_rows + rows.to(gl.int64)).expand_dims(0) * num_outputs
        inside = (outputs < num_outputs).expand_dims(1) & (rows < num_rows).expand_dims(0)
        gl.store(out + at + outputs.expand_dims(1), kept, mask=inside)


@gluon.jit(
    do_not_specialize=["num_rows", "num_inputs", "split_steps", "stride", "num_tiles"],
    do_not_specialize_on_alignment=["steps"],  # it may be a part of joined layers'
)  # type: ignore[untyped-decorator]
def _multiply_kernel(
    x: tma.tensor_descriptor,  # [num_rows, num_inputs]
    packed: tma.tensor_descriptor,  # int16 [num_outputs, num_inputs / 4]
    steps: gl.tensor,  # int32 [num_groups, num_outputs]
    out: gl.tensor,  # [num_splits, num_rows, num_outputs]
    num_rows: gl.tensor,
    num_outputs: gl.tensor,
    num_inputs: gl.tensor,
    split_steps: gl.tensor,  # of a split
    stride: gl.tensor,  # of a group
    num_tiles: gl.tensor,
    GROUP: gl.constexpr,
    RUN: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    STAGES: gl.constexpr,
) -> None:
    """A program takes every so many tiles [BLOCK_N outputs, BLOCK_M rows] of the splits' sums.

    That the warp groups do not part ways is ptxas' wish: it grants the products of a second role
    the registers of the smallest one, and lets them wait for each other.
    """
    dtype: gl.constexpr = x.dtype
    xs = gl.allocate_shared_memory(dtype, [2 * STAGES, BLOCK_M, 2 * RUN], x.layout)
    words = gl.allocate_shared_memory(gl.int16, [STAGES, BLOCK_N, RUN], packed.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=1)
    gl.warp_specialize(
        [
            (_multiply, (
                xs, words, full, empty, steps, out, num_rows, num_outputs, num_inputs, split_steps,
                stride, num_tiles, GROUP, RUN, BLOCK_M, BLOCK_N, STAGES, dtype,
            )),
            (_fetch, (
                x, packed, xs, words, full, empty, num_rows, num_outputs, num_inputs, split_steps,
                num_tiles, RUN, BLOCK_M, BLOCK_N, STAGES,
            )),
        ],
        [1],
        [24],
    )  # fmt: skip


def launch_options(num_warps: int, per_core: int) -> dict[str, Any]:
    """For programs of so many warps that multiply, and four that fetch: one does, but a role has
    the registers of whole warp groups."""
    options = {"num_warps": num_warps}
    if per_core > 1:
        options["maxnreg"] = (64 << 10) // (32 * (num_warps + 4) * per_core)
    return options


def multiply_on_hopper(
    x: torch.Tensor, packed: torch.Tensor, steps: torch.Tensor, tile: Tile
) -> torch.Tensor:
    """As `multiply_integers`, of contiguous x, for words of codes that are RUN apart."""
    (rows, inputs), outputs = x.shape, packed.shape[0]
    sums = SplitSums.empty(rows, outputs, inputs // (4 * RUN), tile.splits, x, x.dtype)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(outputs, tile.outputs)
    num_tiles = tiles * len(sums.parts)
    at_once = num_sms(x.device) * tile.per_core
    _multiply_kernel[(min(num_tiles, at_once),)](
        TensorDescriptor.from_tensor(x, [tile.rows, 2 * RUN], _X_LAYOUT),
        TensorDescriptor.from_tensor(packed, [tile.outputs, RUN], _WORDS_LAYOUT),
        steps, sums.parts, rows, outputs, inputs, sums.steps, steps.stride(0), num_tiles,
        inputs // steps.shape[0], RUN, tile.rows, tile.outputs, tile.num_stages,
        **launch_options(tile.num_warps, tile.per_core),
    )  # fmt: skip
    return sums.total()
