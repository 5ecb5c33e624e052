"""The inner loop of the attention kernel: tiles of keys and values, online softmax.

Scores are kept in units of log2, so that the exponential is one instruction (FlashAttention-2,
arXiv:2307.08691).
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.attention.triton.float8 import query_of

__all__ = ["attend_tiles", "query_tile"]

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def query_tile(
    query: tl.tensor, tokens: tl.tensor, heads: tl.tensor, in_use: tl.tensor, stride: tl.tensor,
    head_stride: tl.tensor, cache: tl.tensor, DIM: tl.constexpr, PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """The queries [rows, PADDED] of a token and head each, of a type that goes with the cache's."""
    dims = tl.arange(0, PADDED)
    origin = tokens.to(tl.int64) * stride + heads * head_stride
    inside = in_use[:, None] & (dims < DIM)[None, :]
    q = tl.load(query + origin[:, None] + dims[None, :], mask=inside, other=0.0)
    if cache.dtype.element_ty == tl.float8e4nv:
        q = query_of(q)
    return q


@triton.jit  # type: ignore[untyped-decorator]
def _places(
    block_table: tl.tensor,
    block: tl.tensor,
    keys: tl.tensor,
    start: tl.tensor,
    num_keys: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tuple:
    """Blocks of the cache that hold a tile of keys, and the keys' places in them. `block`: that of
    a tile which lies in one."""
    if BLOCK_SIZE == BLOCK_N:  # no remainder, after which values in float8 were loaded by bytes
        return block.to(tl.int64), tl.arange(0, BLOCK_N)
    elif BLOCK_SIZE % BLOCK_N == 0:
        place = tl.multiple_of(start % BLOCK_SIZE, BLOCK_N)
        return block.to(tl.int64), place + tl.arange(0, BLOCK_N)
    else:
        numbers = keys // BLOCK_SIZE
        if MASKED:  # whole blocks, so that the keys of one are known to lie side by side
            used = numbers < (num_keys + BLOCK_SIZE - 1) // BLOCK_SIZE
            blocks = tl.load(block_table + numbers, mask=used, other=0)
        else:
            blocks = tl.load(block_table + numbers)
        return blocks.to(tl.int64), keys % BLOCK_SIZE


@triton.jit  # type: ignore[untyped-decorator]
def _load_tile(
    base: tl.tensor,
    blocks: tl.tensor,
    places: tl.tensor,
    valid: tl.tensor,
    BLOCK_STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """[BLOCK_N, PADDED] of keys or values; 0 where masked, so that garbage there cannot be NaN."""
    dims = tl.arange(0, PADDED)
    pointers = base + (blocks * BLOCK_STRIDE + places * DIM)[:, None] + dims[None, :]
    if MASKED:
        if PADDED == DIM:
            return tl.load(pointers, mask=valid[:, None], other=0.0)
        else:
            return tl.load(pointers, mask=valid[:, None] & (dims < DIM)[None, :], other=0.0)
    else:
        if PADDED == DIM:
            return tl.load(pointers)
        else:
            return tl.load(pointers, mask=(dims < DIM)[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _load_upright(
    base: tl.tensor,
    blocks: tl.tensor,
    places: tl.tensor,
    BLOCK_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
) -> tl.tensor:
    """[BLOCK_N, PADDED] of values whose keys lie side by side, never NaN (`cache`): no mask, which
    would cut the load to single bytes."""
    dims = tl.arange(0, PADDED)
    pointers = base + (blocks * BLOCK_STRIDE + places)[None, :] + (dims * BLOCK_SIZE)[:, None]
    if PADDED == DIM:
        return tl.trans(tl.load(pointers))
    else:
        return tl.trans(tl.load(pointers, mask=(dims < DIM)[:, None], other=0.0))


@triton.jit  # type: ignore[untyped-decorator]
def _accumulate(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, query: tl.tensor, k: tl.tensor, v: tl.tensor,
    keys: tl.tensor, valid: tl.tensor, positions: tl.tensor, window: tl.tensor, scale: tl.tensor,
    softcap: tl.tensor, HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """One tile of the online softmax; `keys` are positions, those not `valid` are left out."""
    if k.dtype == tl.float8e4nv:  # see float8.py
        k = k.to(tl.float16)
        v = v.to(tl.float16)
    scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
    unit = scale
    if HAS_SOFTCAP:
        # tanh(x) = 1 - 2 / (1 + exp(2x))
        grown = tl.exp2(scores * (scale / softcap * 2 * _LOG2E))
        scores = softcap * _LOG2E * (1 - 2 / (1 + grown))
        unit = 1.0
    if MASKED:
        seen = (keys[None, :] <= positions[:, None]) & valid[None, :]
        if HAS_WINDOW:
            seen = seen & (keys[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 1) * unit)
    # A row that has seen no key yet has a peak of -inf, and -inf - -inf is no number.
    shift = new_peak
    if MASKED:
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
    weights = tl.exp2(scores * unit - shift[:, None])
    fade = tl.exp2(peak - shift)
    total = total * fade + tl.sum(weights, 1)
    acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return acc, new_peak, total


@triton.jit  # type: ignore[untyped-decorator]
def attend_tiles(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, query: tl.tensor, k_cache: tl.tensor,
    v_cache: tl.tensor, k_tiles: tl.tensor, v_tiles: tl.tensor, block_table: tl.tensor,
    head: tl.tensor, begin: tl.tensor, end: tl.tensor, positions: tl.tensor, num_keys: tl.tensor,
    window: tl.tensor, scale: tl.tensor, softcap: tl.tensor, BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    PADDED: tl.constexpr, V_PADDED: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr,
    AHEAD: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Online softmax over the cached keys of tiles begin..end; the first `num_keys` keys count.

    `scale` includes log2(e) unless scores are soft-capped. `k_tiles`, `v_tiles`: descriptors of the
    caches for the tensor memory accelerator. AHEAD: see `Tile.ahead`; tiles lie in one block each.
    """
    k_base = k_cache + head * (BLOCK_SIZE * DIM)
    v_base = v_cache + head * (BLOCK_SIZE * V_DIM)
    ahead = 0  # the block of the next tile
    if AHEAD and begin < end:
        ahead = tl.load(block_table + begin * BLOCK_N // BLOCK_SIZE)
    for tile in range(begin, end):
        start = tile * BLOCK_N
        block = ahead
        if AHEAD:
            ahead = tl.load(block_table + tl.minimum(tile + 1, end - 1) * BLOCK_N // BLOCK_SIZE)
        elif BLOCK_SIZE % BLOCK_N == 0:
            block = tl.load(block_table + start // BLOCK_SIZE)
        keys = start + tl.arange(0, BLOCK_N)
        valid = keys < num_keys
        # The accelerator loads whole tiles: beyond the last key lies garbage, which times a weight
        # of 0 may still be NaN, so that masked tiles are loaded key by key.
        if TMA and not MASKED:
            row = (block * NUM_KV_HEADS + head) * BLOCK_SIZE + start % BLOCK_SIZE
            k = k_tiles.load([row, 0])
            v = v_tiles.load([row, 0])
        else:
            blocks, places = _places(
                block_table, block, keys, start, num_keys, BLOCK_SIZE, BLOCK_N, MASKED
            )
            K_STRIDE: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * DIM
            V_STRIDE: tl.constexpr = NUM_KV_HEADS * BLOCK_SIZE * V_DIM
            k = _load_tile(k_base, blocks, places, valid, K_STRIDE, DIM, PADDED, MASKED)
            if v_cache.dtype.element_ty == tl.float8e4nv:
                v = _load_upright(v_base, blocks, places, V_STRIDE, BLOCK_SIZE, V_DIM, V_PADDED)
            else:
                v = _load_tile(v_base, blocks, places, valid, V_STRIDE, V_DIM, V_PADDED, MASKED)
        acc, peak, total = _accumulate(
            acc, peak, total, query, k, v, keys, valid, positions, window, scale, softcap,
            HAS_WINDOW, HAS_SOFTCAP, PRECISION, MASKED,
        )  # fmt: skip
    return acc, peak, total
