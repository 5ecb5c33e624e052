"""The attention kernel: one program per item of a plan and KV head, online softmax over key tiles.

The query heads of a KV head and the tokens of a tile form the rows of one matrix, so that decode
too uses the tensor cores (FlashAttention-2, arXiv:2307.08691; split keys: Flash-Decoding, 2023).
Scores are kept in units of log2. Pieces of a split entry go to a workspace; the program that
finishes last combines them in a fixed order, so results do not depend on timing.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["attention_kernel"]

_LN2 = tl.constexpr(0.6931471805599453)
_LOG2E = tl.constexpr(1.4426950408889634)
_ITEM_WORDS = tl.constexpr(16)


@triton.jit
def _tile_rows(
    block_table: Any,
    keys: Any,
    start: Any,
    num_keys: Any,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    MASKED: tl.constexpr,
) -> Any:
    """Rows of the cache [num_blocks * num_kv_heads * block_size] that hold a tile of keys."""
    if BLOCK_SIZE % BLOCK_N == 0:
        block = tl.load(block_table + start // BLOCK_SIZE).to(tl.int64)
        offsets = start % BLOCK_SIZE + tl.arange(0, BLOCK_N)
        return block * (NUM_KV_HEADS * BLOCK_SIZE) + offsets
    else:
        if MASKED:
            blocks = tl.load(block_table + keys // BLOCK_SIZE, mask=keys < num_keys, other=0)
        else:
            blocks = tl.load(block_table + keys // BLOCK_SIZE)
        return blocks.to(tl.int64) * (NUM_KV_HEADS * BLOCK_SIZE) + keys % BLOCK_SIZE


@triton.jit
def _load_tile(
    base: Any, rows: Any, valid: Any, DIM: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr
) -> Any:
    """[BLOCK_N, PADDED] of keys or values; 0 where masked, so that garbage there cannot be NaN."""
    dims = tl.arange(0, PADDED)
    pointers = base + rows[:, None] * DIM + dims[None, :]
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


@triton.jit
def _attend_tiles(
    acc: Any,
    peak: Any,
    total: Any,
    query: Any,
    k_base: Any,
    v_base: Any,
    block_table: Any,
    begin: Any,
    end: Any,
    positions: Any,
    num_keys: Any,
    window: Any,
    scale: Any,
    softcap: Any,
    BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    V_PADDED: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
) -> Any:
    """Online softmax over the key tiles begin..end; `scale` includes log2(e) unless soft-capped."""
    for tile in range(begin, end):
        start = tile * BLOCK_N
        keys = start + tl.arange(0, BLOCK_N)
        valid = keys < num_keys
        rows = _tile_rows(
            block_table, keys, start, num_keys, BLOCK_SIZE, BLOCK_N, NUM_KV_HEADS, MASKED
        )
        k = _load_tile(k_base, rows, valid, DIM, PADDED, MASKED)
        v = _load_tile(v_base, rows, valid, V_DIM, V_PADDED, MASKED)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION) * scale
        if HAS_SOFTCAP:
            # tanh(x) = 1 - 2 / (1 + exp(2x))
            grown = tl.exp2(scores / softcap * (2 * _LOG2E))
            scores = softcap * _LOG2E * (1 - 2 / (1 + grown))
        if MASKED:
            seen = keys[None, :] <= positions[:, None]
            if HAS_WINDOW:
                seen = seen & (keys[None, :] > positions[:, None] - window)
            seen = seen & valid[None, :]
            scores = tl.where(seen, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        shift = new_peak
        if MASKED:
            shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - shift[:, None])
        fade = tl.exp2(peak - shift)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
        peak = new_peak
    return acc, peak, total


@triton.jit
def _combine(
    part_acc: Any,
    part_stats: Any,
    first_slot: Any,
    splits: Any,
    head: Any,
    rows: Any,
    in_use: Any,
    NUM_KV_HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    V_DIM: tl.constexpr,
    V_PADDED: tl.constexpr,
) -> Any:
    """Merge the pieces of one entry, in order."""
    dims = tl.arange(0, V_PADDED)
    acc = tl.zeros([BLOCK_M, V_PADDED], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for piece in range(0, splits):
        slot = ((first_slot + piece) * NUM_KV_HEADS + head).to(tl.int64) * BLOCK_M + rows
        part_peak = tl.load(
            part_stats + slot * 2, mask=in_use, other=float("-inf"), cache_modifier=".cg"
        )
        part_total = tl.load(
            part_stats + slot * 2 + 1, mask=in_use, other=0.0, cache_modifier=".cg"
        )
        part = tl.load(
            part_acc + slot[:, None] * V_DIM + dims[None, :],
            mask=in_use[:, None] & (dims < V_DIM)[None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_peak = tl.maximum(peak, part_peak)
        shift = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        fade = tl.exp2(peak - shift)
        part_fade = tl.exp2(part_peak - shift)
        total = total * fade + part_total * part_fade
        acc = acc * fade[:, None] + part * part_fade[:, None]
        peak = new_peak
    return acc, peak, total


@triton.jit
def _write(
    acc: Any,
    peak: Any,
    total: Any,
    out: Any,
    lse: Any,
    sinks: Any,
    tokens: Any,
    heads: Any,
    in_use: Any,
    NUM_HEADS: tl.constexpr,
    V_DIM: tl.constexpr,
    V_PADDED: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    RETURN_LSE: tl.constexpr,
) -> None:
    """Normalise (a sink joins the denominator here, once) and store [tokens, heads, V_DIM]."""
    dims = tl.arange(0, V_PADDED)
    if HAS_SINKS:
        sink = tl.load(sinks + heads, mask=in_use, other=0.0).to(tl.float32) * _LOG2E
        new_peak = tl.maximum(peak, sink)
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.exp2(sink - new_peak)
        acc = acc * fade[:, None]
        peak = new_peak
    result = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    row = tokens.to(tl.int64) * NUM_HEADS + heads
    tl.store(
        out + row[:, None] * V_DIM + dims[None, :],
        result.to(out.dtype.element_ty),
        mask=in_use[:, None] & (dims < V_DIM)[None, :],
    )
    if RETURN_LSE:
        tl.store(lse + row, (peak + tl.log2(total)) * _LN2, mask=in_use)


@triton.jit
def attention_kernel(
    query: Any,
    k_cache: Any,
    v_cache: Any,
    out: Any,
    lse: Any,
    sinks: Any,
    items: Any,
    counters: Any,
    block_tables: Any,
    part_acc: Any,
    part_stats: Any,
    scale: Any,
    softcap: Any,
    window: Any,
    query_stride: Any,
    query_head_stride: Any,
    table_stride: Any,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    V_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    V_PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    RETURN_LSE: tl.constexpr,
    PRECISION: tl.constexpr,
    ONE_LOOP: tl.constexpr,
) -> None:
    """Grid: max_items * num_kv_heads. Programs without work leave at once."""
    head = tl.program_id(0) % NUM_KV_HEADS
    item = items + (tl.program_id(0) // NUM_KV_HEADS) * _ITEM_WORDS
    begin = tl.load(item + 4)
    end = tl.load(item + 5)
    if begin >= end:
        return
    first_token = tl.load(item)
    first_row = tl.load(item + 1)
    num_rows = tl.load(item + 2)
    context = tl.load(item + 3)
    block_table = block_tables + tl.load(item + 6).to(tl.int64) * table_stride
    splits = tl.load(item + 7)

    lane = tl.arange(0, BLOCK_M)
    rows = first_row + lane
    in_use = rows < num_rows
    tokens = first_token + rows // GROUP
    heads = head * GROUP + rows % GROUP
    positions = context + rows // GROUP
    num_keys = context + (tl.minimum(first_row + BLOCK_M, num_rows) - 1) // GROUP + 1
    dims = tl.arange(0, PADDED)
    q = tl.load(
        query
        + tokens.to(tl.int64)[:, None] * query_stride
        + heads[:, None] * query_head_stride
        + dims[None, :],
        mask=in_use[:, None] & (dims < DIM)[None, :],
        other=0.0,
    )

    k_base = k_cache + head * (BLOCK_SIZE * DIM)
    v_base = v_cache + head * (BLOCK_SIZE * V_DIM)
    acc = tl.zeros([BLOCK_M, V_PADDED], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if ONE_LOOP:
        acc, peak, total = _attend_tiles(
            acc,
            peak,
            total,
            q,
            k_base,
            v_base,
            block_table,
            begin,
            end,
            positions,
            num_keys,
            window,
            scale,
            softcap,
            BLOCK_N,
            BLOCK_SIZE,
            NUM_KV_HEADS,
            DIM,
            V_DIM,
            PADDED,
            V_PADDED,
            HAS_WINDOW,
            HAS_SOFTCAP,
            PRECISION,
            True,
        )
    else:
        # Tiles that every row sees wholly lie between those cut by the window and the diagonal.
        first_full = begin
        if HAS_WINDOW:
            lowest = tl.maximum(num_keys - window, 0)
            first_full = tl.minimum(tl.maximum((lowest + BLOCK_N - 1) // BLOCK_N, begin), end)
            acc, peak, total = _attend_tiles(
                acc,
                peak,
                total,
                q,
                k_base,
                v_base,
                block_table,
                begin,
                first_full,
                positions,
                num_keys,
                window,
                scale,
                softcap,
                BLOCK_N,
                BLOCK_SIZE,
                NUM_KV_HEADS,
                DIM,
                V_DIM,
                PADDED,
                V_PADDED,
                HAS_WINDOW,
                HAS_SOFTCAP,
                PRECISION,
                True,
            )
        full = (context + first_row // GROUP + 1) // BLOCK_N
        full = tl.minimum(tl.maximum(full, first_full), end)
        acc, peak, total = _attend_tiles(
            acc,
            peak,
            total,
            q,
            k_base,
            v_base,
            block_table,
            first_full,
            full,
            positions,
            num_keys,
            window,
            scale,
            softcap,
            BLOCK_N,
            BLOCK_SIZE,
            NUM_KV_HEADS,
            DIM,
            V_DIM,
            PADDED,
            V_PADDED,
            HAS_WINDOW,
            HAS_SOFTCAP,
            PRECISION,
            False,
        )
        acc, peak, total = _attend_tiles(
            acc,
            peak,
            total,
            q,
            k_base,
            v_base,
            block_table,
            full,
            end,
            positions,
            num_keys,
            window,
            scale,
            softcap,
            BLOCK_N,
            BLOCK_SIZE,
            NUM_KV_HEADS,
            DIM,
            V_DIM,
            PADDED,
            V_PADDED,
            HAS_WINDOW,
            HAS_SOFTCAP,
            PRECISION,
            True,
        )

    last = splits == 1
    if splits > 1:
        slot = (tl.load(item + 8) * NUM_KV_HEADS + head).to(tl.int64) * BLOCK_M + lane
        v_dims = tl.arange(0, V_PADDED)
        tl.store(
            part_acc + slot[:, None] * V_DIM + v_dims[None, :],
            acc,
            mask=in_use[:, None] & (v_dims < V_DIM)[None, :],
        )
        tl.store(part_stats + slot * 2, peak, mask=in_use)
        tl.store(part_stats + slot * 2 + 1, total, mask=in_use)
        tl.debug_barrier()  # all threads' stores come before this program's arrival
        counter = counters + tl.load(item + 10) * NUM_KV_HEADS + head
        last = tl.atomic_add(counter, 1, sem="acq_rel") == splits - 1
        if last:
            tl.store(counter, 0)  # ready for the next layer
            acc, peak, total = _combine(
                part_acc,
                part_stats,
                tl.load(item + 9),
                splits,
                head,
                lane,
                in_use,
                NUM_KV_HEADS,
                BLOCK_M,
                V_DIM,
                V_PADDED,
            )
    if last:
        _write(
            acc,
            peak,
            total,
            out,
            lse,
            sinks,
            tokens,
            heads,
            in_use,
            GROUP * NUM_KV_HEADS,
            V_DIM,
            V_PADDED,
            HAS_SINKS,
            RETURN_LSE,
        )
