"""Third pass: rows with top-k, top-p or min-p draw among the scores above their floor.

A floor is the smallest t with measure{score > t} < wanted, where the measure is a count (top-k) or
a mass (top-p): found by halving between integers that order as floats do, without sorting. Of
equal scores at the border all are kept.

The largest scores of a row lie in the parts with the largest maxima, so a few hundred parts, often
fifty, are read instead of the vocabulary. Where they do not hold the floor, whole rows are
searched: under a large top-k here, eight pivots a pass; under top-p or min-p alone over a flat
distribution by all programs together (`wide_kernel`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.sampling.triton.choose_kernel import uniform_draw
from batchgen.engine.sampling.triton.record_fields import (
    DOUBLES,
    DRAW_KEY,
    FILTER,
    FLAGS,
    LOG_MIN_P,
    MIN_TOKENS,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    TOUCHED,
    WORDS,
)
from batchgen.engine.sampling.triton.row_scores import (
    closer,
    draw_above,
    mass_from,
    ordered,
    score_of,
)

__all__ = ["CANDIDATES", "filter_kernel"]

CANDIDATES = 2048
_RANK = tl.constexpr(512)
"""Parts that are read where top-k does not say how many are enough."""
_MOST_RANKS = tl.constexpr(1024)
_LOG2E = tl.constexpr(1.4426950408889634)
_LOW = tl.constexpr(-2147483648)


@triton.jit  # type: ignore[untyped-decorator]
def _floor(keys: tl.tensor, weights: tl.tensor, wanted: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Smallest key t with sum of weights[keys > t] < wanted; `high` is such a one."""
    low = (high * 0 + _LOW).to(tl.int64)
    high = high.to(tl.int64)
    while high - low > 1:
        middle = (low + high) >> 1
        above = tl.sum(tl.where(keys > middle.to(tl.int32), weights, 0.0), 0)
        if above < wanted:
            high = middle
        else:
            low = middle
    return high.to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _wide_floor(
    logits: tl.tensor, scores: tl.tensor, touched: tl.tensor, vocab_size: tl.tensor,
    temperature: tl.tensor, top: tl.tensor, counting: tl.tensor, floor: tl.tensor,
    wanted: tl.tensor, WIDE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """`_floor` over a whole row; keys below `floor` weigh nothing."""
    lane = tl.arange(0, 8)
    low = (ordered(top) * 0 + _LOW).to(tl.int64)
    high = ordered(top).to(tl.int64)
    while high - low > 1:
        step = (high - low + 7) // 8
        pivots = tl.minimum(low + (lane + 1) * step, high)
        narrow = pivots.to(tl.int32)
        sums = tl.zeros([WIDE, 8], tl.float32)
        for start in range(0, vocab_size, WIDE):
            ids = start + tl.arange(0, WIDE)
            z = tl.div_rn(score_of(logits, scores, ids, ids < vocab_size, touched), temperature)
            keys = ordered(z)
            weights = tl.where(counting != 0, 1.0, tl.exp2((z - top) * _LOG2E))
            weights = tl.where(keys >= floor, weights, 0.0)
            sums += tl.where(keys[:, None] > narrow[None, :], weights[:, None], 0.0)
        below = tl.sum(sums.to(tl.float64), 0) < wanted
        low, high = closer(low, high, pivots, below)
    return high.to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def filter_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor, words: tl.tensor,
    floats: tl.tensor, doubles: tl.tensor, draw_keys: tl.tensor, maxima: tl.tensor,
    row_best: tl.tensor, row_mass: tl.tensor, part_ids: tl.tensor, candidates: tl.tensor,
    candidate_ids: tl.tensor, tokens: tl.tensor, usable: tl.tensor, num_wide: tl.tensor,
    wide_rows: tl.tensor, wide_bounds: tl.tensor, vocab_size: tl.tensor, stride: tl.tensor,
    num_parts: tl.tensor, PARTS: tl.constexpr, SUB: tl.constexpr, CANDIDATES: tl.constexpr,
    WIDE: tl.constexpr, BOUNDS: tl.constexpr,
) -> None:  # fmt: skip
    """Overwrite the tokens of rows with a filter; others leave at once."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    flags = tl.load(words + slot * WORDS + FLAGS)
    if ((flags & FILTER) != 0) & tl.load(usable + row):
        position = tl.load(positions + row)
        early = position < tl.load(words + slot * WORDS + MIN_TOKENS)
        touched = (early | ((flags & TOUCHED) != 0)).to(tl.int32)
        source = logits + row.to(tl.int64) * stride
        changed = scores + row.to(tl.int64) * vocab_size
        temperature = tl.load(floats + slot * WORDS + TEMPERATURE)
        top_k = tl.load(words + slot * WORDS + TOP_K)
        top_p = tl.load(doubles + slot * DOUBLES + TOP_P)
        top = tl.div_rn(tl.load(row_best + row), temperature)
        high = ordered(top)
        lowest = top + tl.load(floats + slot * WORDS + LOG_MIN_P)

        # a score that at least `rank` tokens reach
        rank = tl.where((top_k > 0) & (top_k <= _MOST_RANKS), top_k, _RANK)
        part = tl.arange(0, PARTS)
        part_there = part < num_parts
        begin = maxima + row.to(tl.int64) * num_parts
        highest = tl.load(begin + part, mask=part_there, other=float("-inf"))
        part_keys = ordered(tl.div_rn(highest, temperature))
        reached = _floor(part_keys, part_there.to(tl.float32), rank.to(tl.float32), high)
        chosen = part_there & (part_keys >= reached)
        num_chosen = tl.sum(chosen.to(tl.int32), 0)
        parts = part_ids + row.to(tl.int64) * PARTS
        tl.store(parts + tl.cumsum(chosen.to(tl.int32), 0) - 1, part, mask=chosen)
        tl.debug_barrier()

        # the tokens that reach it, in the vocabulary's order
        kept_scores = candidates + row.to(tl.int64) * CANDIDATES
        kept_ids = candidate_ids + row.to(tl.int64) * CANDIDATES
        num_kept = num_chosen * 0
        lane = tl.arange(0, SUB * 32)
        for start in range(0, num_chosen, 32):
            place = start + lane // SUB
            known = place < num_chosen
            ids = tl.load(parts + place, mask=known, other=0) * SUB + lane % SUB
            inside = known & (ids < vocab_size)
            z = tl.div_rn(score_of(source, changed, ids, inside, touched), temperature)
            keep = inside & (ordered(z) >= reached)
            target = num_kept + tl.cumsum(keep.to(tl.int32), 0) - 1
            fits = keep & (target < CANDIDATES)
            tl.store(kept_scores + target, z, mask=fits)
            tl.store(kept_ids + target, ids, mask=fits)
            num_kept += tl.sum(keep.to(tl.int32), 0)
        tl.debug_barrier()

        count = tl.arange(0, CANDIDATES)
        held = count < num_kept
        z = tl.load(kept_scores + count, mask=held, other=float("-inf"))
        keys = ordered(z)
        weights = tl.where(held, tl.exp2((z - top) * _LOG2E), 0.0).to(tl.float64)
        floor = (num_kept * 0 + _LOW).to(tl.int32)
        complete = num_kept <= CANDIDATES
        mass = tl.load(row_mass + row)
        if top_k > 0:
            complete = complete & (top_k <= rank)
            if complete:
                floor = _floor(keys, held.to(tl.float32), top_k.to(tl.float32), high)
                mass = tl.sum(tl.where(keys >= floor, weights, 0.0), 0)
        if top_p < 1.0:
            complete = complete & (tl.sum(weights, 0) >= top_p * mass)
            if complete:
                inner = _floor(keys, weights, top_p * mass, high)
                floor = tl.maximum(floor, inner)
        floor = tl.maximum(floor, ordered(lowest))
        complete = complete & (floor >= reached)
        key = tl.load(draw_keys + slot * DOUBLES + DRAW_KEY)
        uniform = uniform_draw(key, position.to(tl.int64))
        token = tl.load(tokens + row)
        if complete:
            shares = tl.where(keys >= floor, weights, 0.0)
            passed = tl.cumsum(shares, 0) > uniform * tl.sum(shares, 0)
            last = tl.max(tl.where(shares > 0, count, 0), 0)
            index = tl.minimum(tl.min(tl.where(passed, count, CANDIDATES - 1), 0), last)
            token = tl.load(kept_ids + index).to(tl.int64)
        elif top_k > 0:
            floor = ordered(lowest)
            mass = tl.load(row_mass + row)
            of_k = _wide_floor(
                source, changed, touched, vocab_size, temperature, top, 1, _LOW,
                top_k.to(tl.float64), WIDE,
            )  # fmt: skip
            mass = mass_from(source, changed, touched, 0, vocab_size, temperature, top, of_k, WIDE)
            floor = tl.maximum(floor, of_k)
            if top_p < 1.0:
                floor = tl.maximum(floor, _wide_floor(
                    source, changed, touched, vocab_size, temperature, top, 0, of_k,
                    top_p * mass, WIDE,
                ))  # fmt: skip
            mass = mass_from(source, changed, touched, 0, vocab_size, temperature, top, floor, WIDE)
            token = draw_above(
                source, changed, touched, 0, vocab_size, temperature, top, floor, uniform * mass,
                token, WIDE,
            )  # fmt: skip
        else:  # all programs together look for its floor
            entry = tl.atomic_add(num_wide, 1)
            tl.store(wide_rows + entry, row)
            mass = tl.load(row_mass + row)
            below = ordered(lowest).to(tl.int64)
            above = below
            if top_p < 1.0:
                # tokens up to here weigh no more than what top-p leaves out, were all of them here
                least = tl.log((1.0 - top_p) * mass / vocab_size).to(tl.float32) - 0.01
                above = high.to(tl.int64)
                below = tl.minimum(ordered(top + least).to(tl.int64), above - 1)
            tl.store(wide_bounds + entry * BOUNDS, below.to(tl.int32))
            tl.store(wide_bounds + entry * BOUNDS + 1, above.to(tl.int32))
        tl.store(tokens + row, token)
