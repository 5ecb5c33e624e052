"""4-bit weights on CUDA: products that dequantise in registers, and whole weights for many rows.

The weight is the product's left side, which tensor cores take from registers; so a tile's rows are
outputs, its columns tokens. Codes become numbers without a conversion: put in the lowest bits of
128 (bfloat16) or 1024 (float16) they add themselves, two at a time.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from batchgen.causes import first_line
from batchgen.engine.gpu import is_hopper
from batchgen.engine.kernel_keys import settle_keys
from batchgen.engine.quantization.packing import assembly
from batchgen.engine.quantization.split_sums import SplitSums
from batchgen.engine.quantization.tiles import Tile, fitted, hopper_tile, integer_tile

__all__ = ["hopper_kernel", "multiply_integers", "multiply_tiled"]

_logger = logging.getLogger(__name__)

_DENSE_ROWS = 512
"""From here on a dequantised copy costs less than a dense product gains."""
_HOPPER_ROWS = 2048
"""The same where Hopper's own product is what it would replace."""


# $0 to $3: pairs of the four runs' weights. $4: two words of codes; $5, $6: their steps.
_BFLOAT16 = tl.constexpr(assembly(torch.bfloat16, range(4)))
_FLOAT16 = tl.constexpr(assembly(torch.float16, range(4)))


@triton.jit  # type: ignore[untyped-decorator]
def _four_runs(
    words: tl.tensor, steps: tl.tensor, dtype: tl.constexpr, ASM: tl.constexpr
) -> tl.tuple:
    """Weights of the four runs in the words [outputs, RUN]; steps: [outputs], of their group."""
    if ASM:
        both = tl.broadcast_to(steps[:, None], words.shape)
        if dtype == tl.bfloat16:
            return tl.inline_asm_elementwise(
                _BFLOAT16, "=&r,=&r,=&r,=&r,r,r,r", [words, both],
                dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
            )  # fmt: skip
        else:
            return tl.inline_asm_elementwise(
                _FLOAT16, "=&r,=&r,=&r,=&r,r,r,r", [words, both],
                dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
            )  # fmt: skip
    else:
        return (
            _one_run(words, steps, dtype),
            _one_run(words >> 4, steps, dtype),
            _one_run(words >> 8, steps, dtype),
            _one_run(words >> 12, steps, dtype),
        )


@triton.jit  # type: ignore[untyped-decorator]
def _one_run(words: tl.tensor, steps: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """The same in plain operations, for interpreters: of the lowest bits."""
    kind: tl.constexpr = tl.bfloat16 if dtype == tl.bfloat16 else tl.float16
    offset: tl.constexpr = 128.0 if dtype == tl.bfloat16 else 1024.0
    scale = steps.to(tl.int16).to(kind, bitcast=True).to(tl.float32)
    added = (steps >> 16).to(tl.int16).to(kind, bitcast=True).to(tl.float32)
    codes = (words & 15).to(tl.float32) + offset
    return ((codes + added[:, None]) * scale[:, None]).to(dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _weights(
    words: tl.tensor,
    steps_at: tl.tensor,  # of the outputs, in the first group
    start: tl.tensor,  # the first run's first input
    stride: tl.tensor,  # of a group
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    dtype: tl.constexpr,
    ASM: tl.constexpr,
) -> tl.tuple:
    """Of the four runs, which are of one group or of several."""
    if GROUP % (4 * RUN) == 0:
        return _four_runs(words, tl.load(steps_at + start // GROUP * stride), dtype, ASM)
    else:
        one = tl.load(steps_at + start // GROUP * stride)
        two = tl.load(steps_at + (start + RUN) // GROUP * stride)
        three = tl.load(steps_at + (start + 2 * RUN) // GROUP * stride)
        four = tl.load(steps_at + (start + 3 * RUN) // GROUP * stride)
        return (
            _four_runs(words, one, dtype, ASM)[0],
            _four_runs(words, two, dtype, ASM)[1],
            _four_runs(words, three, dtype, ASM)[2],
            _four_runs(words, four, dtype, ASM)[3],
        )


@triton.jit  # type: ignore[untyped-decorator]
def _multiply_kernel(
    x: tl.tensor,  # [num_rows, num_inputs]
    packed: tl.tensor,  # int16 [num_outputs, num_inputs / 4]
    steps: tl.tensor,  # int32 [num_groups, num_outputs]
    out: tl.tensor,  # [num_splits, num_rows, num_outputs]
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    split_steps: tl.tensor,  # loops of a split
    stride: tl.tensor,  # of a group
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ASM: tl.constexpr,
) -> None:
    """A tile [BLOCK_N outputs, BLOCK_M rows] of one split's sum a program."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(2)
    places = tl.arange(0, RUN)
    # What lies outside is read from the last row or output instead, and not stored.
    row, output = tl.minimum(rows, num_rows - 1), tl.minimum(outputs, num_outputs - 1)
    x_at = x + row.to(tl.int64)[None, :] * num_inputs + places[:, None]
    w_at = packed + output.to(tl.int64)[:, None] * (num_inputs // 4) + places[None, :]
    first = split * split_steps
    end = tl.minimum(first + split_steps, num_inputs // (4 * RUN))
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    dtype: tl.constexpr = x.dtype.element_ty
    for step in range(first, end):
        words, start = tl.load(w_at + step * RUN), step * 4 * RUN
        runs = _weights(words, steps + output, start, stride, GROUP, RUN, dtype, ASM)
        total = tl.dot(runs[0], tl.load(x_at + start), total)
        total = tl.dot(runs[1], tl.load(x_at + start + RUN), total)
        total = tl.dot(runs[2], tl.load(x_at + start + 2 * RUN), total)
        total = tl.dot(runs[3], tl.load(x_at + start + 3 * RUN), total)
    place = out + (split * num_rows + rows.to(tl.int64))[None, :] * num_outputs + outputs[:, None]
    inside = (outputs < num_outputs)[:, None] & (rows < num_rows)[None, :]
    tl.store(place, total.to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _dense_kernel(
    packed: tl.tensor,
    steps: tl.tensor,
    out: tl.tensor,  # [num_outputs, num_inputs]
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    stride: tl.tensor,
    GROUP: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ASM: tl.constexpr,
) -> None:
    """Some outputs' inputs of one loop a program."""
    start = tl.program_id(0) * 4 * RUN
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    output, places = tl.minimum(outputs, num_outputs - 1), tl.arange(0, RUN)
    row = output.to(tl.int64)[:, None]
    words = tl.load(packed + row * (num_inputs // 4) + start // 4 + places[None, :])
    dtype: tl.constexpr = out.dtype.element_ty
    runs = _weights(words, steps + output, start, stride, GROUP, RUN, dtype, ASM)
    at, inside = out + row * num_inputs + start + places[None, :], (outputs < num_outputs)[:, None]
    for place in tl.static_range(4):
        tl.store(at + place * RUN, runs[place], inside)


@torch.library.custom_op("batchgen::multiply_integers", mutates_args=())
def multiply_integers(
    x: torch.Tensor,  # [num_rows, num_inputs]
    packed: torch.Tensor,
    steps: torch.Tensor,
    run: int,
    hopper: bool = True,
) -> torch.Tensor:  # [num_rows, num_outputs]
    """x weight^T, weights in x's dtype, sums in float32. `hopper`: whether a GPU that has a kernel
    of its own may take it."""
    x = x.contiguous()
    own = hopper_kernel() if hopper and run == 32 and _fits_hopper(x, packed) else None
    if own is not None and x.shape[0] < _HOPPER_ROWS:
        tile = hopper_tile(x.shape[0], packed.shape[0], x.shape[1])
        product: torch.Tensor = own.multiply_on_hopper(x, packed, steps, tile)
        return product
    if x.shape[0] >= _DENSE_ROWS:
        return torch.mm(x, _dense(x, packed, steps, run).T)
    return multiply_tiled(x, packed, steps, run, integer_tile(x.shape[0], packed.shape[0]))


@multiply_integers.register_fake
def _(
    x: torch.Tensor, packed: torch.Tensor, steps: torch.Tensor, run: int, hopper: bool = True
) -> torch.Tensor:
    return x.new_empty(x.shape[0], packed.shape[0])


def _fits_hopper(x: torch.Tensor, packed: torch.Tensor) -> bool:
    """Whether its copy engine reads both, and its tensor cores multiply them."""
    if x.dtype not in (torch.bfloat16, torch.float16) or not is_hopper(x.device):
        return False
    return x.numel() > 0 and x.data_ptr() % 16 == 0 and packed.data_ptr() % 16 == 0


@lru_cache
def hopper_kernel() -> Any:
    """The module; None, with a line in the log, where Triton cannot compile its like."""
    try:
        from batchgen.engine.quantization import integer_hopper
    except (ImportError, AttributeError) as error:
        _logger.info("no 4-bit products of Hopper's own: %s", first_line(error))
        return None
    return integer_hopper


def multiply_tiled(
    x: torch.Tensor, packed: torch.Tensor, steps: torch.Tensor, run: int, tile: Tile
) -> torch.Tensor:
    """As `multiply_integers`, cut as the tile says."""
    (rows, inputs), outputs = x.shape, packed.shape[0]
    step_bytes = 8 * run * tile.rows + (2 * run + 4) * tile.outputs
    tile = fitted(tile, step_bytes, x.device)
    sums = SplitSums.empty(rows, outputs, inputs // (4 * run), tile.splits, x, x.dtype)
    grid = (triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs), len(sums.parts))
    _multiply_kernel[grid](
        x, packed, steps, sums.parts, rows, outputs, inputs, sums.steps, steps.stride(0),
        inputs // steps.shape[0], run, tile.rows, tile.outputs, x.is_cuda,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return sums.total()


def _dense(x: torch.Tensor, packed: torch.Tensor, steps: torch.Tensor, run: int) -> torch.Tensor:
    """The weight in x's dtype, for this product alone."""
    outputs, inputs = packed.shape[0], x.shape[1]
    out = torch.empty(outputs, inputs, dtype=x.dtype, device=x.device)
    grid = (inputs // (4 * run), triton.cdiv(outputs, 64))
    _dense_kernel[grid](
        packed, steps, out, outputs, inputs, steps.stride(0), inputs // steps.shape[0], run, 64,
        x.is_cuda,
    )  # fmt: skip
    return out


settle_keys(_dense_kernel)
