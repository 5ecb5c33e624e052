"""Second pass: a row's token from the results of its tiles, where no filter cuts its choice; and
the last pass, which counts the chosen tokens and gives their log-probabilities."""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.sampling.triton.choose_kernel import join, part_of, uniform_draw, walk
from batchgen.engine.sampling.triton.record_fields import (
    COUNTS,
    DOUBLES,
    DRAW_KEY,
    FILTER,
    FLAGS,
    LOGPROBS,
    MIN_TOKENS,
    TEMPERATURE,
    TOP,
    TOP_LOGPROBS,
    TOUCHED,
    WORDS,
)

__all__ = ["settle_kernel", "token_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def token_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor, words: tl.tensor,
    floats: tl.tensor, keys: tl.tensor, best: tl.tensor, where: tl.tensor, mass: tl.tensor,
    tokens: tl.tensor, usable: tl.tensor, row_best: tl.tensor, row_mass: tl.tensor,
    num_wide: tl.tensor, vocab_size: tl.tensor, stride: tl.tensor, tiles: tl.tensor,
    TILES: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """The most likely token, or a drawn one; a row's largest score and mass for the filters."""
    row = tl.program_id(0)
    if row == 0:
        tl.store(num_wide, 0)  # of the step before
    slot = tl.load(slots + row).to(tl.int64)
    flags = tl.load(words + slot * WORDS + FLAGS)
    position = tl.load(positions + row)
    early = position < tl.load(words + slot * WORDS + MIN_TOKENS)
    temperature = tl.load(floats + slot * WORDS + TEMPERATURE)
    lane = tl.arange(0, TILES)
    tops, largest, token, fine = join(best, where, tokens, usable, row, tiles, lane)
    if fine & (temperature > 0):
        scale = _LOG2E / temperature
        shares = tl.load(mass + row * tiles + lane, mask=lane < tiles, other=0.0)
        shares *= tl.exp2((tops - largest) * scale).to(tl.float64)
        total = tl.sum(shares, 0)
        tl.store(row_best + row, largest)
        tl.store(row_mass + row, total)
        if (flags & FILTER) == 0:
            key = tl.load(keys + slot * DOUBLES + DRAW_KEY)
            target = uniform_draw(key, position.to(tl.int64)) * total
            tile, target = part_of(target, shares, tiles, lane)
            begin = tile * BLOCK
            end = tl.minimum(begin + BLOCK, vocab_size)
            if early | ((flags & TOUCHED) != 0):
                changed = scores + row.to(tl.int64) * vocab_size
                token = walk(changed, begin, end, largest, scale, target, token, BLOCK)
            else:
                source = logits + row.to(tl.int64) * stride
                token = walk(source, begin, end, largest, scale, target, token, BLOCK)
            tl.store(tokens + row, token.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def settle_kernel(
    logits: tl.tensor, slots: tl.tensor, words: tl.tensor, counts: tl.tensor, tokens: tl.tensor,
    usable: tl.tensor, raw_best: tl.tensor, raw_mass: tl.tensor, raw_maxima: tl.tensor,
    logprobs: tl.tensor, top_ids: tl.tensor, top_logprobs: tl.tensor, vocab_size: tl.tensor,
    stride: tl.tensor, tiles: tl.tensor, HAS_COUNTS: tl.constexpr, TILES: tl.constexpr,
    PARTS: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr, SUB: tl.constexpr,
) -> None:  # fmt: skip
    """Count a row's token; its log-probability and the most likely tokens, before processors."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    flags = tl.load(words + slot * WORDS + FLAGS)
    token = tl.load(tokens + row)
    if HAS_COUNTS:  # noqa: SIM102 - decided when it is compiled
        if ((flags & COUNTS) != 0) & tl.load(usable + row):
            seen = counts + slot * vocab_size + token
            tl.store(seen, (tl.load(seen) + 2) | 1)
    if (flags & (LOGPROBS | TOP)) != 0:
        lane = tl.arange(0, TILES)
        there = lane < tiles
        tops = tl.load(raw_best + row * tiles + lane, mask=there, other=float("-inf"))
        largest = tl.max(tops, 0)
        shares = tl.load(raw_mass + row * tiles + lane, mask=there, other=0.0)
        total = tl.sum(shares * tl.exp2((tops - largest) * _LOG2E), 0)
        infinite = largest == float("inf")  # and forbidden, where a token could be chosen
        denominator = tl.where(infinite, largest, largest + tl.log(total))
        source = logits + row.to(tl.int64) * stride
        tl.store(logprobs + row, tl.load(source + token).to(tl.float32) - denominator)
        if (flags & TOP) != 0:
            count = tl.load(words + slot * WORDS + TOP_LOGPROBS)
            num_parts = tiles * (BLOCK // SUB)
            part = tl.arange(0, PARTS)
            begin = raw_maxima + row.to(tl.int64) * num_parts
            maxima = tl.load(begin + part, mask=part < num_parts, other=float("-inf"))
            for rank in range(count):
                # the first part with the largest value that is left, and its first such token
                value = tl.max(maxima, 0)
                chosen = tl.min(tl.where(maxima == value, part, 2147483647), 0)
                chosen = tl.minimum(chosen, PARTS - 1)  # NaN is equal to none
                ids = chosen * SUB + tl.arange(0, SUB)
                x = tl.load(source + ids, mask=ids < vocab_size, other=float("-inf"))
                x = x.to(tl.float32)
                done = tl.arange(0, MOST)
                earlier = tl.load(top_ids + row * MOST + done, mask=done < rank, other=-1)
                taken = tl.max((ids[:, None] == earlier[None, :]).to(tl.int32), 1) > 0
                place = tl.min(tl.where((x == value) & ~taken, ids, 2147483647), 0)
                tl.store(top_ids + row * MOST + rank, place)
                tl.store(top_logprobs + row * MOST + rank, value - denominator)
                tl.debug_barrier()
                rest = tl.where(taken | (ids == place), float("-inf"), x)
                maxima = tl.where(part == chosen, tl.max(rest, 0), maxima)
