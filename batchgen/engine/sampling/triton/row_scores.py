"""A row's scores as the filters read them: in an order of integers; the bounds of a floor, the mass
from it on, and a draw there."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["closer", "draw_above", "mass_from", "ordered", "score_of", "unordered"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def ordered(z: tl.tensor) -> tl.tensor:
    """int32 that order as float32 do; both zeros are one."""
    bits = tl.where(z == 0, 0.0, z).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit  # type: ignore[untyped-decorator]
def unordered(key: tl.tensor) -> tl.tensor:
    """The float32 of an integer of `ordered`."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def score_of(
    logits: tl.tensor, scores: tl.tensor, ids: tl.tensor, there: tl.tensor, touched: tl.tensor
) -> tl.tensor:
    """A row's scores: logits where no processor touched it. One of the two loads is masked out."""
    x = tl.load(logits + ids, mask=there & (touched == 0), other=float("-inf")).to(tl.float32)
    y = tl.load(scores + ids, mask=there & (touched != 0), other=float("-inf"))
    return tl.where(touched != 0, y, x)


@triton.jit  # type: ignore[untyped-decorator]
def closer(low: tl.tensor, high: tl.tensor, pivots: tl.tensor, below: tl.tensor) -> tl.tensor:
    """Bounds of a floor, int64, after a look at ascending pivots between them; `below`: whether
    less than what is wanted lies above each."""
    least = tl.min(tl.where(below, pivots, high), 0)
    low = tl.max(tl.where(below, low, pivots), 0)
    return low, tl.maximum(least, low + 1)


@triton.jit  # type: ignore[untyped-decorator]
def mass_from(
    logits: tl.tensor, scores: tl.tensor, touched: tl.tensor, begin: tl.tensor, end: tl.tensor,
    temperature: tl.tensor, top: tl.tensor, floor: tl.tensor, WIDE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Sum of the weights of the scores of begin..end from the floor on, float64."""
    total = tl.zeros([WIDE], tl.float64)
    for start in range(begin, end, WIDE):
        ids = start + tl.arange(0, WIDE)
        z = tl.div_rn(score_of(logits, scores, ids, ids < end, touched), temperature)
        weights = tl.exp2((z - top) * _LOG2E).to(tl.float64)
        total += tl.where(ordered(z) >= floor, weights, 0.0)
    return tl.sum(total, 0)


@triton.jit  # type: ignore[untyped-decorator]
def draw_above(
    logits: tl.tensor, scores: tl.tensor, touched: tl.tensor, begin: tl.tensor, end: tl.tensor,
    temperature: tl.tensor, top: tl.tensor, floor: tl.tensor, target: tl.tensor, token: tl.tensor,
    WIDE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The token of begin..end where the running mass of the scores from the floor on passes the
    target."""
    found = 0
    for start in range(begin, end, WIDE):
        if found == 0:
            ids = start + tl.arange(0, WIDE)
            z = tl.div_rn(score_of(logits, scores, ids, ids < end, touched), temperature)
            shares = tl.exp2((z - top) * _LOG2E).to(tl.float64)
            shares = tl.where(ordered(z) >= floor, shares, 0.0)
            passed = tl.cumsum(shares, 0) > target
            last = tl.max(tl.where(shares > 0, ids, -1), 0)
            token = tl.where(last >= 0, last.to(tl.int64), token)
            if tl.max(passed.to(tl.int32), 0) > 0:
                token = tl.min(tl.where(passed, ids, 2147483647), 0).to(tl.int64)
                found = 1
            target -= tl.sum(shares, 0)
    return token
