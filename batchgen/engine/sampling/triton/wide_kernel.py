"""Floors of rows whose few hundred largest scores do not hold them: top-p or min-p alone over a
flat distribution. All programs search together, each a tile of a row at a time.

A pass sums the mass above 16 pivots between the bounds of the floor; the next one adds the tiles'
sums in a fixed order and has bounds 16 times as close. Pivots lie evenly between values at first,
then between the integers that order as floats do. Seven passes find the floor among the scores of
any usual row; what is not found by then is searched by each program for itself. Then the mass of
each tile above the floor, and one program a row draws.
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.kernel_keys import settle_keys
from batchgen.engine.sampling.triton.choose_kernel import uniform_draw
from batchgen.engine.sampling.triton.record_fields import (
    DOUBLES,
    DRAW_KEY,
    FLAGS,
    LOG_MIN_P,
    MIN_TOKENS,
    TEMPERATURE,
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
    unordered,
)

__all__ = ["NUM_PASSES", "NUM_PIVOTS", "wide_draw_kernel", "wide_mass_kernel", "wide_pass_kernel"]

NUM_PASSES = 7
NUM_PIVOTS = 16
"""More of them, and a tile takes longer than the pass that they save."""
_VALUE_PASSES = tl.constexpr(4)
_PIVOTS = tl.constexpr(NUM_PIVOTS)
_PASSES = tl.constexpr(NUM_PASSES)
_BOUNDS = tl.constexpr(2 * NUM_PASSES)
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _pivots(low: tl.tensor, high: tl.tensor, by_value: tl.constexpr) -> tl.tensor:
    """int64 [_PIVOTS], ascending, above `low`; the last is `high`."""
    number = tl.arange(0, _PIVOTS) + 1
    if by_value:
        first, last = unordered(low.to(tl.int32)), unordered(high.to(tl.int32))
        values = first + (last - first) * (number.to(tl.float32) / _PIVOTS)
        keys = tl.minimum(tl.maximum(ordered(values).to(tl.int64), low + 1), high)
        return tl.where(number == _PIVOTS, high, keys)
    step = (high - low + _PIVOTS - 1) // _PIVOTS
    return tl.minimum(low + number * step, high)


@triton.jit  # type: ignore[untyped-decorator]
def _narrowed(
    low: tl.tensor,
    high: tl.tensor,
    sums: tl.tensor,
    tiles: tl.tensor,
    wanted: tl.tensor,
    by_value: tl.constexpr,
    TILES: tl.constexpr,
) -> tl.tensor:
    """Closer bounds, given each tile's mass above each pivot between them."""
    if high - low > 1:
        pivots = _pivots(low, high, by_value)
        tile, number = tl.arange(0, TILES), tl.arange(0, _PIVOTS)
        places = tile[:, None] * _PIVOTS + number[None, :]
        parts = tl.load(sums + places, mask=(tile < tiles)[:, None], other=0.0)
        below = tl.sum(parts.to(tl.float64), 0) < wanted
        low, high = closer(low, high, pivots, below)
    return low, high


@triton.jit  # type: ignore[untyped-decorator]
def _mass_above(
    source: tl.tensor, changed: tl.tensor, touched: tl.tensor, begin: tl.tensor, end: tl.tensor,
    temperature: tl.tensor, top: tl.tensor, pivots: tl.tensor, WIDE: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Mass of the scores of begin..end above each pivot, float32 [_PIVOTS]."""
    narrow = pivots.to(tl.int32)
    sums = tl.zeros([WIDE, _PIVOTS], tl.float32)  # joined once: threads wait for each other there
    for start in range(begin, end, WIDE):
        ids = start + tl.arange(0, WIDE)
        z = tl.div_rn(score_of(source, changed, ids, ids < end, touched), temperature)
        weights = tl.exp2((z - top) * _LOG2E)
        sums += tl.where(ordered(z)[:, None] > narrow[None, :], weights[:, None], 0.0)
    return tl.sum(sums, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _row_of(
    row: tl.tensor, slots: tl.tensor, positions: tl.tensor, words: tl.tensor, floats: tl.tensor,
    doubles: tl.tensor, row_best: tl.tensor, row_mass: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Slot, whether processors touched it, temperature, largest score, and the mass of top-p."""
    slot = tl.load(slots + row).to(tl.int64)
    early = tl.load(positions + row) < tl.load(words + slot * WORDS + MIN_TOKENS)
    touched = (early | ((tl.load(words + slot * WORDS + FLAGS) & TOUCHED) != 0)).to(tl.int32)
    temperature = tl.load(floats + slot * WORDS + TEMPERATURE)
    top = tl.div_rn(tl.load(row_best + row), temperature)
    wanted = tl.load(doubles + slot * DOUBLES + TOP_P) * tl.load(row_mass + row)
    return slot, touched, temperature, top, wanted


@triton.jit  # type: ignore[untyped-decorator]
def wide_pass_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor,
    words: tl.tensor, floats: tl.tensor, doubles: tl.tensor, row_best: tl.tensor,
    row_mass: tl.tensor, num_wide: tl.tensor, wide_rows: tl.tensor, wide_bounds: tl.tensor,
    sums: tl.tensor, sums_before: tl.tensor, vocab_size: tl.tensor, stride: tl.tensor,
    tiles: tl.tensor, PASS: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Grid: any. Writes bounds `PASS` of each row and the mass of each tile above their pivots."""
    items = tl.load(num_wide) * tiles
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        entry, tile = items * 0 + item // tiles, item % tiles
        row = tl.load(wide_rows + entry)
        _, touched, temperature, top, wanted = _row_of(
            row, slots, positions, words, floats, doubles, row_best, row_mass
        )
        bounds = wide_bounds + entry * _BOUNDS
        if PASS == 0:
            low = tl.load(bounds).to(tl.int64)
            high = tl.load(bounds + 1).to(tl.int64)
        else:
            low = tl.load(bounds + 2 * PASS - 2).to(tl.int64)
            high = tl.load(bounds + 2 * PASS - 1).to(tl.int64)
            before = sums_before + entry.to(tl.int64) * tiles * _PIVOTS
            low, high = _narrowed(low, high, before, tiles, wanted, PASS - 1 < _VALUE_PASSES, TILES)
            if tile == 0:
                tl.store(bounds + 2 * PASS, low.to(tl.int32))
                tl.store(bounds + 2 * PASS + 1, high.to(tl.int32))
        if high - low > 1:
            begin = tile * BLOCK
            above = _mass_above(
                logits + row.to(tl.int64) * stride, scores + row.to(tl.int64) * vocab_size,
                touched, begin, tl.minimum(begin + BLOCK, vocab_size), temperature, top,
                _pivots(low, high, PASS < _VALUE_PASSES), WIDE,
            )  # fmt: skip
            tl.store(
                sums + (entry.to(tl.int64) * tiles + tile) * _PIVOTS + tl.arange(0, _PIVOTS), above
            )


@triton.jit  # type: ignore[untyped-decorator]
def wide_mass_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor,
    words: tl.tensor, floats: tl.tensor, doubles: tl.tensor, row_best: tl.tensor,
    row_mass: tl.tensor, num_wide: tl.tensor, wide_rows: tl.tensor, wide_bounds: tl.tensor,
    sums: tl.tensor, floors: tl.tensor, masses: tl.tensor, vocab_size: tl.tensor,
    stride: tl.tensor, tiles: tl.tensor, TILES: tl.constexpr, BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Grid: any. Writes each row's floor, and the mass of each of its tiles from there on."""
    items = tl.load(num_wide) * tiles
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        entry, tile = items * 0 + item // tiles, item % tiles
        row = tl.load(wide_rows + entry)
        slot, touched, temperature, top, wanted = _row_of(
            row, slots, positions, words, floats, doubles, row_best, row_mass
        )
        source = logits + row.to(tl.int64) * stride
        changed = scores + row.to(tl.int64) * vocab_size
        bounds = wide_bounds + entry * _BOUNDS + 2 * _PASSES - 2
        low, high = tl.load(bounds).to(tl.int64), tl.load(bounds + 1).to(tl.int64)
        before = sums + entry.to(tl.int64) * tiles * _PIVOTS
        low, high = _narrowed(low, high, before, tiles, wanted, _PASSES - 1 < _VALUE_PASSES, TILES)
        while high - low > 1:  # scores closer to each other than usual ones
            pivots = _pivots(low, high, False)
            below = _mass_above(
                source, changed, touched, 0, vocab_size, temperature, top, pivots, WIDE
            ).to(tl.float64) < wanted  # fmt: skip
            low, high = closer(low, high, pivots, below)
        lowest = ordered(top + tl.load(floats + slot * WORDS + LOG_MIN_P))
        floor = tl.maximum(high.to(tl.int32), lowest)
        if tile == 0:
            tl.store(floors + entry, floor)
        begin = tile * BLOCK
        end = tl.minimum(begin + BLOCK, vocab_size)
        mass = mass_from(source, changed, touched, begin, end, temperature, top, floor, WIDE)
        tl.store(masses + item, mass)


@triton.jit  # type: ignore[untyped-decorator]
def wide_draw_kernel(
    logits: tl.tensor, scores: tl.tensor, slots: tl.tensor, positions: tl.tensor,
    words: tl.tensor, floats: tl.tensor, doubles: tl.tensor, row_best: tl.tensor,
    row_mass: tl.tensor, num_wide: tl.tensor, wide_rows: tl.tensor, floors: tl.tensor,
    masses: tl.tensor, draw_keys: tl.tensor, tokens: tl.tensor, vocab_size: tl.tensor,
    stride: tl.tensor, tiles: tl.tensor, TILES: tl.constexpr, BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:  # fmt: skip
    """Grid: any. Overwrites the token of each row."""
    lane = tl.arange(0, TILES)
    for entry in range(tl.program_id(0), tl.load(num_wide), tl.num_programs(0)):
        row = tl.load(wide_rows + entry)
        slot, touched, temperature, top, _ = _row_of(
            row, slots, positions, words, floats, doubles, row_best, row_mass
        )
        shares = tl.load(masses + entry * tiles + lane, mask=lane < tiles, other=0.0)
        position = tl.load(positions + row).to(tl.int64)
        key = tl.load(draw_keys + slot * DOUBLES + DRAW_KEY)
        target = uniform_draw(key, position) * tl.sum(shares, 0)
        passed = (tl.cumsum(shares, 0) > target) & (shares > 0)
        last = tl.max(tl.where(shares > 0, lane, 0), 0)
        tile = tl.minimum(tl.min(tl.where(passed, lane, TILES), 0), last)
        target -= tl.sum(tl.where(lane < tile, shares, 0.0), 0)
        begin = tile * BLOCK
        token = draw_above(
            logits + row.to(tl.int64) * stride, scores + row.to(tl.int64) * vocab_size, touched,
            begin, tl.minimum(begin + BLOCK, vocab_size), temperature, top,
            tl.load(floors + entry), target, tl.load(tokens + row), WIDE,
        )  # fmt: skip
        tl.store(tokens + row, token)


settle_keys(wide_pass_kernel, wide_mass_kernel, wide_draw_kernel)
