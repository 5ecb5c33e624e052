"""First pass of a step whose rows are sampled in several ways: scores and what later passes need.

One program a tile of a row. A row without a flag costs what the greedy scan costs: one read of its
logits. Processors in the order of `sampler`; scores of rows that none touches stay logits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.kernel_keys import settle_keys
from batchgen.engine.sampling.triton.record_fields import (
    BIAS,
    COUNTS,
    DOUBLES,
    FILTER,
    FLAGS,
    FREQUENCY,
    LOGPROBS,
    MASK,
    MIN_TOKENS,
    PRESENCE,
    REPETITION,
    TEMPERATURE,
    TOP,
    TOUCHED,
    WORDS,
)

__all__ = ["BLOCK", "SUB", "score_kernel"]

BLOCK = 4096
SUB = 64
"""Width of the parts of a tile whose maxima are kept, to find the largest scores of a row."""

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _allowed(words: tl.tensor, ids: tl.tensor, inside: tl.tensor) -> tl.tensor:
    return (tl.load(words + ids // 32, mask=inside, other=0) >> (ids % 32)) & 1


@triton.jit  # type: ignore[untyped-decorator]
def _penalised(
    x: tl.tensor, word: tl.tensor, doubles: tl.tensor, repetition: tl.tensor
) -> tl.tensor:
    """`word`: bit 0, the token was seen; above it, how often it was sampled."""
    scaled = tl.where(x < 0, x * repetition, tl.div_rn(x, repetition))
    count = (word >> 1).to(tl.float64)
    present = tl.where(word > 1, tl.load(doubles + PRESENCE), 0.0)
    subtract = (present + tl.load(doubles + FREQUENCY) * count).to(tl.float32)
    return tl.where(word > 0, scaled - subtract, x)


@triton.jit  # type: ignore[untyped-decorator]
def score_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor, words: tl.tensor,
    floats: tl.tensor, doubles: tl.tensor, counts: tl.tensor, bias: tl.tensor, masks: tl.tensor,
    stops: tl.tensor, best: tl.tensor, where: tl.tensor, mass: tl.tensor, maxima: tl.tensor,
    raw_best: tl.tensor, raw_mass: tl.tensor, raw_maxima: tl.tensor, vocab_size: tl.tensor,
    stride: tl.tensor, mask_words: tl.tensor, HAS_COUNTS: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK: tl.constexpr, SUB: tl.constexpr,
) -> None:  # fmt: skip
    """Writes scores of touched rows that draw, and for each tile: its largest score and where it
    first is, the sum of exp((score - largest) / T), the maxima of its parts; the same of untouched
    logits."""
    row = tl.program_id(0)
    tile = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    flags = tl.load(words + slot * WORDS + FLAGS)
    early = tl.load(positions + row) < tl.load(words + slot * WORDS + MIN_TOKENS)
    temperature = tl.load(floats + slot * WORDS + TEMPERATURE)
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab_size
    source = logits + row.to(tl.int64) * stride
    x = tl.load(source + ids, mask=inside, other=float("-inf")).to(tl.float32)
    out = row * tl.num_programs(1) + tile
    parts = out.to(tl.int64) * (BLOCK // SUB) + tl.arange(0, BLOCK // SUB)
    if (flags & (LOGPROBS | TOP)) != 0:
        top = tl.max(x, 0)
        base = tl.where(top == float("-inf"), 0.0, top)
        tl.store(raw_best + out, top)
        tl.store(raw_mass + out, tl.sum(tl.exp2((x - base) * _LOG2E), 0))
        if (flags & TOP) != 0:
            tl.store(raw_maxima + parts, tl.max(tl.reshape(x, (BLOCK // SUB, SUB)), 1))
    if HAS_BIAS:  # noqa: SIM102 - decided when it is compiled
        if (flags & BIAS) != 0:
            x += tl.load(bias + slot * vocab_size + ids, mask=inside, other=0.0)
    if HAS_COUNTS:  # noqa: SIM102 - decided when it is compiled
        if (flags & COUNTS) != 0:
            seen = tl.load(counts + slot * vocab_size + ids, mask=inside, other=0)
            repetition = tl.load(floats + slot * WORDS + REPETITION)
            x = _penalised(x, seen, doubles + slot * DOUBLES, repetition)
    if (flags & MASK) != 0:
        x = tl.where(_allowed(masks + slot * mask_words, ids, inside) != 0, x, float("-inf"))
    if early:
        x = tl.where(_allowed(stops + slot * mask_words, ids, inside) != 0, float("-inf"), x)
    if (early | ((flags & TOUCHED) != 0)) & (temperature > 0):  # none but draws read them
        tl.store(scores + row.to(tl.int64) * vocab_size + ids, x, mask=inside)
    broken = tl.max((x != x).to(tl.int32), 0) > 0
    largest = tl.max(x, 0)
    first = tl.min(tl.where((x == largest) & inside, ids, 2147483647), 0)
    tl.store(best + out, tl.where(broken, float("nan"), largest))
    tl.store(where + out, first)
    if temperature > 0:
        base = tl.where(largest == float("-inf"), 0.0, largest)
        total = tl.sum(tl.exp2((x - base) * (_LOG2E / temperature)), 0)
        tl.store(mass + out, total.to(tl.float64))
        if (flags & FILTER) != 0:
            tl.store(maxima + parts, tl.max(tl.reshape(x, (BLOCK // SUB, SUB)), 1))


settle_keys(score_kernel)
