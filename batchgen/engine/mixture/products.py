"""A layer of experts on CUDA: sort, gates and ups, down, sum; to the compiler, one operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from batchgen.engine.mixture.form import Gate
from batchgen.engine.mixture.kernels import down_kernel, gate_up_kernel, sum_kernel
from batchgen.engine.mixture.sorting import Sorted, sort_pairs
from batchgen.engine.mixture.tiles import WORDS, Tile, down_tile, fitted, gate_up_tile, row_block
from batchgen.engine.quantization.float8 import E4M3
from batchgen.engine.quantization.round_kernel import round_rows_on_gpu

__all__ = ["Weight", "combine", "mix_experts", "multiply_down", "multiply_gate_up"]

_RUN = 1024


@dataclass(frozen=True, slots=True)
class Weight:
    """Of all experts: values [num_experts, num_outputs, num_inputs]."""

    values: torch.Tensor
    bias: torch.Tensor | None  # [num_experts, num_outputs]
    scale: torch.Tensor | None = None
    """float32 [num_experts, num_outputs] of values in e4m3; of words, `four_bits.Packed`'s."""


@torch.library.custom_op("batchgen::mix_experts", mutates_args=())
def mix_experts(
    x: torch.Tensor,  # [num_tokens, hidden]
    chosen: torch.Tensor,  # int [num_tokens, experts of a token]
    shares: torch.Tensor,  # as `chosen`
    gate_up: torch.Tensor,  # [num_experts, 2 * width, hidden]: gates, then ups
    gate_up_bias: torch.Tensor | None,
    down: torch.Tensor,  # [num_experts, hidden, width]
    down_bias: torch.Tensor | None,
    gate: str,  # see `Gate.text`
    gate_up_scale: torch.Tensor | None = None,  # see `Weight.scale`
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:  # [num_tokens, hidden]
    """Each token's experts, weighed and added; sums in float32. With scales, weights are in e4m3,
    and what is multiplied with them is rounded to it row by row; or they are words of 4 bits."""
    if not len(x):
        return torch.empty_like(x)
    x, chosen, shares = x.contiguous(), chosen.contiguous(), shares.contiguous()
    rows = row_block(chosen.numel(), len(down), down.dtype)
    pairs = sort_pairs(chosen, len(down), rows)
    tile, weight = gate_up_tile(rows, gate_up.dtype), Weight(gate_up, gate_up_bias, gate_up_scale)
    inner = multiply_gate_up(x, weight, Gate.read(gate), pairs, chosen.shape[1], tile)
    tile, weight = down_tile(rows, down.dtype), Weight(down, down_bias, down_scale)
    parts = multiply_down(inner, weight, shares, pairs, tile)
    return combine(parts, chosen, len(down))


@mix_experts.register_fake
def _(
    x: torch.Tensor,
    chosen: torch.Tensor,
    shares: torch.Tensor,
    gate_up: torch.Tensor,
    gate_up_bias: torch.Tensor | None,
    down: torch.Tensor,
    down_bias: torch.Tensor | None,
    gate: str,  # see `Gate.text`
    gate_up_scale: torch.Tensor | None = None,
    down_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    return x.new_empty(x.shape)


def multiply_gate_up(
    x: torch.Tensor, weight: Weight, gate: Gate, pairs: Sorted, num_chosen: int, tile: Tile
) -> torch.Tensor:
    """x [num_tokens, hidden] -> what is between the products, in the order of experts
    [num_pairs, width]."""
    values, bias = weight.values, weight.bias
    tile = fitted(tile, 2, values.dtype, x.device)
    inputs, outputs = x.shape[1], values.shape[1] // 2
    rows, x_scale = _rounded(x, weight)
    out = torch.empty(len(pairs.order), outputs, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(outputs, tile.outputs), pairs.most_tiles)
    gate_up_kernel[grid](
        rows, values, bias, out, x_scale, weight.scale, pairs.order, pairs.tiles, pairs.num_tiles,
        outputs, inputs, num_chosen, gate.alpha, gate.limit or 0.0, gate.shift, gate.function,
        gate.limit is not None, bias is not None,
        x_scale is not None, values.dtype == WORDS, x.is_cuda, inputs % tile.inputs == 0,
        tile.rows, tile.outputs, tile.inputs,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


def multiply_down(
    x: torch.Tensor, weight: Weight, shares: torch.Tensor, pairs: Sorted, tile: Tile
) -> torch.Tensor:
    """x [num_pairs, width] in the order of experts -> a share of a token's outcome for each pair,
    by their numbers [num_pairs, hidden]."""
    values, bias = weight.values, weight.bias
    tile = fitted(tile, 1, values.dtype, x.device)
    inputs, outputs = x.shape[1], values.shape[1]
    rows, x_scale = _rounded(x, weight)
    out = torch.empty(len(pairs.order), outputs, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(outputs, tile.outputs), pairs.most_tiles)
    down_kernel[grid](
        rows, values, bias, shares, out, x_scale, weight.scale,
        pairs.order, pairs.tiles, pairs.num_tiles, outputs, inputs,
        bias is not None, x_scale is not None, values.dtype == WORDS, x.is_cuda,
        inputs % tile.inputs == 0, tile.rows, tile.outputs, tile.inputs,
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return out


def _rounded(x: torch.Tensor, weight: Weight) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows as the weight wants them, and their scales float32 [num_rows, 1]."""
    return round_rows_on_gpu(x) if weight.values.dtype == E4M3 else (x, None)


def combine(parts: torch.Tensor, chosen: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Sum the outputs of each token's experts: parts [num_pairs, hidden] -> [num_tokens, hidden].

    `chosen` [num_tokens, experts of a token]: the experts of each token.
    """
    (tokens, count), size = chosen.shape, parts.shape[1]
    out = torch.empty(tokens, size, dtype=parts.dtype, device=parts.device)
    grid = (tokens, triton.cdiv(size, _RUN))
    sum_kernel[grid](parts, chosen, out, size, num_experts, count, _RUN, num_warps=4)
    return out
