"""Sampling without a host sync on the GPU: each row's most likely token, or a keyed random one.

The vocabulary of a row is cut into splits, one program each; a second kernel joins them. Draws are
`draws.uniform` of (key, position), inverted over the cumulative probability in vocabulary order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["greedy_tokens", "join", "part_of", "sampled_tokens", "uniform_draw", "walk"]

_BLOCK = 2048
_PROGRAMS = 2048
"""Programs that keep a large GPU busy."""
_WALKED = 4
"""Blocks of a split at most: one program a row walks the split of its draw. (On an H200 512 rows of
151,936 take 83 and 11 us where they draw, 48 and 2 where they do not, for 37 us of reading.)"""
_LOG2E = tl.constexpr(1.4426950408889634)


def greedy_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Most likely token (the first of equals), int64 [num_rows], and whether it can be trusted.

    logits: [num_rows, vocab_size], any float type, rows may be strided. The second result is bool
    [num_rows]: False where a row holds NaN or its largest logit is infinite.
    """
    rows = torch.empty(0, dtype=torch.int64, device=logits.device)
    return _choose(logits, None, rows, rows)


def sampled_tokens(
    logits: torch.Tensor, temperature: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens drawn from softmax(logits / temperature), and whether they can be trusted.

    temperature: float32 [num_rows]; 0 takes the most likely token. keys, positions: int64
    [num_rows], the 64 bits of `draws.draw_key` and the token's position in its output.
    """
    return _choose(logits, temperature, keys, positions)


def _choose(
    logits: torch.Tensor,
    temperature: torch.Tensor | None,
    keys: torch.Tensor,
    positions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, vocab_size = logits.shape
    blocks = triton.cdiv(vocab_size, _BLOCK)
    splits = max(1, min(blocks, _PROGRAMS // max(num_rows, 1)))
    of_split = min(triton.cdiv(blocks, splits), _WALKED)
    splits = triton.cdiv(blocks, of_split)
    device = logits.device
    best = torch.empty((num_rows, splits), dtype=torch.float32, device=device)
    where = torch.empty((num_rows, splits), dtype=torch.int32, device=device)
    mass = torch.empty((num_rows, splits), dtype=torch.float64, device=device)
    tokens = torch.empty(num_rows, dtype=torch.int64, device=device)
    usable = torch.empty(num_rows, dtype=torch.bool, device=device)
    if num_rows == 0:
        return tokens, usable
    drawing = temperature is not None
    scale = best if temperature is None else temperature
    scan_kernel[(num_rows, splits)](
        logits, scale, best, where, mass, vocab_size, logits.stride(0), of_split,
        DRAWING=drawing, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    choose_kernel[(num_rows,)](
        logits, scale, keys, positions, best, where, mass, tokens, usable, vocab_size,
        logits.stride(0), of_split, splits, DRAWING=drawing, BLOCK=_BLOCK, num_warps=8,
        SPLITS=triton.next_power_of_2(blocks),  # by the vocabulary alone: compiled once
    )  # fmt: skip
    return tokens, usable


@triton.jit  # type: ignore[untyped-decorator]
def uniform_draw(key: tl.tensor, position: tl.tensor) -> tl.tensor:
    """`draws.uniform`: splitmix64, 53 bits as float64."""
    z = key.to(tl.uint64, bitcast=True) + (position + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z >> 11).to(tl.float64) * (1.0 / 9007199254740992.0)


@triton.jit(do_not_specialize=["of_split"])  # type: ignore[untyped-decorator]
def scan_kernel(
    logits: tl.tensor, temperature: tl.tensor, best: tl.tensor, where: tl.tensor, mass: tl.tensor,
    vocab_size: tl.tensor, stride: tl.tensor, of_split: tl.tensor, DRAWING: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Largest logit of a split of `of_split` blocks, its first index, and the sum of
    exp((logit - largest) / T)."""
    row = tl.program_id(0)
    split = tl.program_id(1)
    source = logits + row.to(tl.int64) * stride
    begin = split * of_split * BLOCK  # seen to be a multiple: logits are loaded eight at a time
    end = tl.minimum(begin + of_split * BLOCK, vocab_size)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    index = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.float32)
    broken = tl.zeros([BLOCK], tl.int32)
    scale = 0.0
    if DRAWING:
        cold = tl.load(temperature + row)
        scale = _LOG2E / tl.where(cold > 0, cold, 1.0)
    for start in range(begin, end, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(source + ids, mask=ids < end, other=float("-inf")).to(tl.float32)
        broken = tl.where(x != x, 1, broken)
        new_top = tl.maximum(top, x)
        index = tl.where(x > top, ids, index)
        if DRAWING:
            base = tl.where(new_top == float("-inf"), 0.0, new_top)
            total = total * tl.exp2((top - base) * scale) + tl.exp2((x - base) * scale)
        top = new_top
    largest = tl.max(top, 0)
    first = tl.min(tl.where(top == largest, index, 2147483647), 0)
    out = row * tl.num_programs(1) + split
    tl.store(best + out, tl.where(tl.max(broken, 0) > 0, float("nan"), largest))
    tl.store(where + out, first)
    if DRAWING:
        base = tl.where(largest == float("-inf"), 0.0, largest)
        shares = total.to(tl.float64) * tl.exp2((top - base) * scale).to(tl.float64)
        tl.store(mass + out, tl.sum(shares, 0))


@triton.jit(do_not_specialize=["of_split", "splits"])  # type: ignore[untyped-decorator]
def choose_kernel(
    logits: tl.tensor, temperature: tl.tensor, keys: tl.tensor, positions: tl.tensor,
    best: tl.tensor, where: tl.tensor, mass: tl.tensor, tokens: tl.tensor, usable: tl.tensor,
    vocab_size: tl.tensor, stride: tl.tensor, of_split: tl.tensor, splits: tl.tensor,
    SPLITS: tl.constexpr, DRAWING: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Join the splits of a row; where it draws, walk the split that holds the draw."""
    row = tl.program_id(0)
    lane = tl.arange(0, SPLITS)
    tops, largest, token, fine = join(best, where, tokens, usable, row, splits, lane)
    if DRAWING:
        cold = tl.load(temperature + row)
        if fine & (cold > 0):
            scale = _LOG2E / cold
            shares = tl.load(mass + row * splits + lane, mask=lane < splits, other=0.0)
            shares *= tl.exp2((tops - largest) * scale).to(tl.float64)
            target = uniform_draw(tl.load(keys + row), tl.load(positions + row)) * tl.sum(shares, 0)
            split, target = part_of(target, shares, splits, lane)
            source = logits + row.to(tl.int64) * stride
            begin = split * of_split * BLOCK
            end = tl.minimum(begin + of_split * BLOCK, vocab_size)
            token = walk(source, begin, end, largest, scale, target, token, BLOCK)
            tl.store(tokens + row, token.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def join(
    best: tl.tensor, where: tl.tensor, tokens: tl.tensor, usable: tl.tensor, row: tl.tensor,
    parts: tl.tensor, lane: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Store a row's most likely token and whether it can be trusted; the parts' largest logits, the
    row's, and the two."""
    there = lane < parts
    tops = tl.load(best + row * parts + lane, mask=there, other=float("-inf"))
    largest = tl.max(tops, 0)
    first = tl.load(where + row * parts + lane, mask=there, other=0)
    token = tl.min(tl.where((tops == largest) & there, first, 2147483647), 0)
    fine = (tl.sum((tops != tops).to(tl.int32), 0) == 0) & (tl.abs(largest) != float("inf"))
    tl.store(usable + row, fine)
    tl.store(tokens + row, tl.where(fine, token, 0).to(tl.int64))
    return tops, largest, token, fine


@triton.jit  # type: ignore[untyped-decorator]
def part_of(target: tl.tensor, shares: tl.tensor, parts: tl.tensor, lane: tl.tensor) -> tl.tensor:
    """The part in which the running mass passes the target, and what of the target is left."""
    passed = (lane < parts) & (tl.cumsum(shares, 0) > target)
    part = tl.min(tl.where(passed, lane, parts - 1), 0)
    return part, target - tl.sum(tl.where(lane < part, shares, 0.0), 0)


@triton.jit  # type: ignore[untyped-decorator]
def walk(
    source: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    largest: tl.tensor,
    scale: tl.tensor,
    target: tl.tensor,
    token: tl.tensor,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """First index in begin..end where the cumulative weight passes the target, else the last
    index with any weight (rounding), else `token`.
    """
    found = 0
    for start in range(begin, end, BLOCK):
        if found == 0:
            ids = start + tl.arange(0, BLOCK)
            x = tl.load(source + ids, mask=ids < end, other=float("-inf")).to(tl.float32)
            weights = tl.exp2((x - largest) * scale).to(tl.float64)
            passed = tl.cumsum(weights, 0) > target
            last = tl.max(tl.where(weights > 0, ids, -1), 0)
            token = tl.where(last >= 0, last, token)
            if tl.max(passed.to(tl.int32), 0) > 0:
                token = tl.min(tl.where(passed, ids, 2147483647), 0)
                found = 1
            target -= tl.sum(weights, 0)
    return token
