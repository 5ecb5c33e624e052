"""Products of rows with the weights of the experts they were sent to, on CUDA, in Triton.

The weight is the product's left side: of a few rows tensor cores want many outputs at once. A
program computes some outputs of one tile of rows; programs of one expert are neighbours, so what a
second tile reads again is still in the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.kernel_keys import settle_keys
from batchgen.engine.mixture.form import GELU, SILU
from batchgen.engine.mixture.four_bit_kernel import four_runs
from batchgen.engine.mixture.sorting import tile_at

__all__ = ["down_kernel", "gate_up_kernel", "sum_kernel"]

_SILU, _GELU = tl.constexpr(SILU), tl.constexpr(GELU)
_ROOT_HALF = tl.constexpr(0.7071067811865476)
_ROOT_8_BY_PI = tl.constexpr(1.5957691216057308)


@triton.jit  # type: ignore[untyped-decorator]
def gate_up_kernel(
    x: tl.tensor,  # [num_tokens, num_inputs]
    weight: tl.tensor,  # [num_experts, 2 * num_outputs, num_inputs]: gates, then ups
    bias: tl.tensor,  # [num_experts, 2 * num_outputs]
    out: tl.tensor,  # [num_pairs, num_outputs], in the order of `order`
    x_scale: tl.tensor,  # float32 [num_tokens]
    scale: tl.tensor,  # float32 [num_experts, 2 * num_outputs], or of words
    order: tl.tensor,  # int32 [num_pairs]
    tiles: tl.tensor,  # int32 [.., 3]
    num_tiles: tl.tensor,  # int32 [1]
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    num_chosen: tl.tensor,  # experts of a token
    alpha: tl.tensor,
    limit: tl.tensor,
    shift: tl.tensor,
    FUNCTION: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    PACKED: tl.constexpr,  # weights are words of 4 bits, see `four_bits`
    ASM: tl.constexpr,
    WHOLE: tl.constexpr,  # inputs are whole steps
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A tile [BLOCK_N outputs, BLOCK_M rows] a program."""
    tile = tl.program_id(1)
    if tile >= tl.load(num_tiles):
        return
    expert, first, end = tile_at(tiles, tile)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = first + tl.arange(0, BLOCK_M)
    inputs = tl.arange(0, BLOCK_K)
    # What lies outside is read from the last row or output instead, and not stored.
    output = tl.minimum(outputs, num_outputs - 1)
    token = tl.load(order + tl.minimum(rows, end - 1)) // num_chosen
    gates = expert * 2 * num_outputs + output
    ups = gates + num_outputs
    x_at = x + token.to(tl.int64)[None, :] * num_inputs
    gate = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if PACKED:
        steps = tl.cdiv(num_inputs, BLOCK_K)
        places = tl.arange(0, BLOCK_K // 4)
        x_at += places[:, None]
        gate_at = weight + gates[:, None] * (steps * (BLOCK_K // 4)) + places[None, :]
        up_at = gate_at + num_outputs.to(tl.int64) * (steps * (BLOCK_K // 4))
        scale_at = scale + expert * steps * 2 * num_outputs + output
        for step in range(steps):
            left = num_inputs - step * BLOCK_K
            runs = _runs(x_at + step * BLOCK_K, places, left, WHOLE)
            words = tl.load(gate_at + step * (BLOCK_K // 4))
            scales = tl.load(scale_at + step * 2 * num_outputs)
            gate = _add_runs(gate, words, scales, runs, ASM)
            words = tl.load(up_at + step * (BLOCK_K // 4))
            scales = tl.load(scale_at + step * 2 * num_outputs + num_outputs)
            up = _add_runs(up, words, scales, runs, ASM)
    else:
        x_at += inputs[:, None]
        gate_at = weight + gates[:, None] * num_inputs + inputs[None, :]
        up_at = weight + ups[:, None] * num_inputs + inputs[None, :]
        for start in range(0, num_inputs, BLOCK_K):
            if WHOLE:
                b = tl.load(x_at + start)
                gate = tl.dot(tl.load(gate_at + start), b, gate, input_precision="ieee")
                up = tl.dot(tl.load(up_at + start), b, up, input_precision="ieee")
            else:
                has_input = inputs < num_inputs - start
                b = tl.load(x_at + start, has_input[:, None], other=0.0)
                a = tl.load(gate_at + start, has_input[None, :], other=0.0)
                gate = tl.dot(a, b, gate, input_precision="ieee")
                a = tl.load(up_at + start, has_input[None, :], other=0.0)
                up = tl.dot(a, b, up, input_precision="ieee")
    if HAS_SCALE:
        of_row = tl.load(x_scale + token)[None, :]
        gate = gate * tl.load(scale + gates)[:, None] * of_row
        up = up * tl.load(scale + ups)[:, None] * of_row
    if HAS_BIAS:
        gate += tl.load(bias + gates).to(tl.float32)[:, None]
        up += tl.load(bias + ups).to(tl.float32)[:, None]
    found = _gated(gate, up, alpha, limit, shift, FUNCTION, HAS_LIMIT)
    inside = (outputs < num_outputs)[:, None] & (rows < end)[None, :]
    place = out + rows.to(tl.int64)[None, :] * num_outputs + outputs[:, None]
    tl.store(place, found.to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def down_kernel(
    x: tl.tensor,  # [num_pairs, num_inputs], in the order of `order`
    weight: tl.tensor,  # [num_experts, num_outputs, num_inputs]
    bias: tl.tensor,  # [num_experts, num_outputs]
    shares: tl.tensor,  # [num_pairs]: of an expert in its token
    out: tl.tensor,  # [num_pairs, num_outputs], by the pairs' numbers
    x_scale: tl.tensor,  # float32 [num_pairs], in the order of `order`
    scale: tl.tensor,  # float32 [num_experts, num_outputs], or of words
    order: tl.tensor,  # int32 [num_pairs]
    tiles: tl.tensor,  # int32 [.., 3]
    num_tiles: tl.tensor,  # int32 [1]
    num_outputs: tl.tensor,
    num_inputs: tl.tensor,
    HAS_BIAS: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    PACKED: tl.constexpr,  # weights are words of 4 bits, see `four_bits`
    ASM: tl.constexpr,
    WHOLE: tl.constexpr,  # inputs are whole steps
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """A tile [BLOCK_N outputs, BLOCK_M rows] a program, times the rows' shares."""
    tile = tl.program_id(1)
    if tile >= tl.load(num_tiles):
        return
    expert, first, end = tile_at(tiles, tile)
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = first + tl.arange(0, BLOCK_M)
    inputs = tl.arange(0, BLOCK_K)
    output = expert * num_outputs + tl.minimum(outputs, num_outputs - 1)
    row = tl.minimum(rows, end - 1)
    pair = tl.load(order + row)
    x_at = x + row.to(tl.int64)[None, :] * num_inputs
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    if PACKED:
        steps = tl.cdiv(num_inputs, BLOCK_K)
        places = tl.arange(0, BLOCK_K // 4)
        x_at += places[:, None]
        w_at = weight + output[:, None] * (steps * (BLOCK_K // 4)) + places[None, :]
        scale_at = scale + output + expert * (steps - 1) * num_outputs
        for step in range(steps):
            left = num_inputs - step * BLOCK_K
            runs = _runs(x_at + step * BLOCK_K, places, left, WHOLE)
            words = tl.load(w_at + step * (BLOCK_K // 4))
            scales = tl.load(scale_at + step * num_outputs)
            total = _add_runs(total, words, scales, runs, ASM)
    else:
        x_at += inputs[:, None]
        w_at = weight + output[:, None] * num_inputs + inputs[None, :]
        for start in range(0, num_inputs, BLOCK_K):
            if WHOLE:
                b = tl.load(x_at + start)
                total = tl.dot(tl.load(w_at + start), b, total, input_precision="ieee")
            else:
                has_input = inputs < num_inputs - start
                b = tl.load(x_at + start, has_input[:, None], other=0.0)
                a = tl.load(w_at + start, has_input[None, :], other=0.0)
                total = tl.dot(a, b, total, input_precision="ieee")
    if HAS_SCALE:
        total = total * tl.load(scale + output)[:, None] * tl.load(x_scale + row)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + output).to(tl.float32)[:, None]
    total *= tl.load(shares + pair).to(tl.float32)[None, :]
    inside = (outputs < num_outputs)[:, None] & (rows < end)[None, :]
    place = out + pair.to(tl.int64)[None, :] * num_outputs + outputs[:, None]
    tl.store(place, total.to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def sum_kernel(
    parts: tl.tensor,  # [num_tokens, NUM_CHOSEN, size]
    chosen: tl.tensor,  # [num_tokens, NUM_CHOSEN]
    out: tl.tensor,  # [num_tokens, size]
    size: tl.tensor,
    num_experts: tl.tensor,
    NUM_CHOSEN: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A run of a token's numbers a program, experts in the order in which they were chosen."""
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for place in tl.static_range(NUM_CHOSEN):
        pair = token * NUM_CHOSEN + place
        expert = tl.load(chosen + pair)
        end = tl.where((expert >= 0) & (expert < num_experts), size, 0)
        total += tl.load(parts + pair * size + at, at < end, other=0.0).to(tl.float32)
    tl.store(out + token * size + at, total.to(out.dtype.element_ty), at < size)


@triton.jit  # type: ignore[untyped-decorator]
def _runs(at: tl.tensor, places: tl.tensor, left: tl.tensor, WHOLE: tl.constexpr) -> tl.tuple:
    """Inputs of the four blocks of a step [32, rows]; `left`: so many inputs are there."""
    if WHOLE:
        return tl.load(at), tl.load(at + 32), tl.load(at + 64), tl.load(at + 96)
    else:
        inside = places[:, None]
        return (
            tl.load(at, inside < left, other=0.0),
            tl.load(at + 32, inside < left - 32, other=0.0),
            tl.load(at + 64, inside < left - 64, other=0.0),
            tl.load(at + 96, inside < left - 96, other=0.0),
        )


@triton.jit  # type: ignore[untyped-decorator]
def _add_runs(
    total: tl.tensor, words: tl.tensor, scales: tl.tensor, runs: tl.tuple, ASM: tl.constexpr
) -> tl.tensor:
    """The sum, with the products of a step's four blocks."""
    weights = four_runs(words, scales, runs[0].dtype, ASM)
    total = tl.dot(weights[0], runs[0], total, input_precision="ieee")
    total = tl.dot(weights[1], runs[1], total, input_precision="ieee")
    total = tl.dot(weights[2], runs[2], total, input_precision="ieee")
    return tl.dot(weights[3], runs[3], total, input_precision="ieee")


@triton.jit  # type: ignore[untyped-decorator]
def _gated(
    gate: tl.tensor,
    up: tl.tensor,
    alpha: tl.tensor,
    limit: tl.tensor,
    shift: tl.tensor,
    FUNCTION: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
) -> tl.tensor:
    """As `form.Gate.apply`. NaN stays NaN."""
    if HAS_LIMIT:
        gate = tl.minimum(gate, limit, propagate_nan=tl.PropagateNan.ALL)
        up = tl.clamp(up, -limit, limit, propagate_nan=tl.PropagateNan.ALL)
    if FUNCTION == _SILU:
        gate = gate / (1.0 + tl.exp(-alpha * gate))
    elif FUNCTION == _GELU:
        gate = 0.5 * gate * (1.0 + tl.erf(gate * _ROOT_HALF))
    else:  # tanh y is 2 sigmoid(2 y) - 1
        inner = _ROOT_8_BY_PI * (gate + 0.044715 * gate * gate * gate)
        gate = gate / (1.0 + tl.exp(-inner))
    return (up + shift) * gate


settle_keys(gate_up_kernel, down_kernel)
