"""The attention kernel: one program per item of a plan and KV head.

The query heads of a KV head and the tokens of a tile form the rows of one matrix, so that decode
too uses the tensor cores. Pieces of a split entry (Flash-Decoding, 2023) go to a workspace; the
program that finishes last merges them in a fixed order, so results do not depend on timing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.attention.triton.cache import write_tokens
from batchgen.engine.attention.triton.reduce import (
    combine,
    keep,
    merge_shared,
    shared_parts,
    write,
)
from batchgen.engine.attention.triton.tiles import attend_tiles, query_tile
from batchgen.engine.kernel_keys import settle_keys

__all__ = ["attention_kernel"]

_ITEM_WORDS = tl.constexpr(16)
_ROW_WORDS = tl.constexpr(8)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["window", "table_stride"],
    do_not_specialize_on_alignment=["slot_mapping", "shared_rows"],  # views of a bucket's inputs
)
def attention_kernel(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, slot_mapping: tl.tensor, k_tiles: tl.tensor,
    v_tiles: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor, out: tl.tensor, lse: tl.tensor,
    sinks: tl.tensor, items: tl.tensor, counters: tl.tensor, block_tables: tl.tensor,
    part_acc: tl.tensor, part_stats: tl.tensor, shared_rows: tl.tensor, shared_acc: tl.tensor,
    shared_stats: tl.tensor, scale: tl.tensor, softcap: tl.tensor, window: tl.tensor,
    query_stride: tl.tensor, query_head_stride: tl.tensor, key_stride: tl.tensor,
    key_head_stride: tl.tensor, value_stride: tl.tensor, value_head_stride: tl.tensor,
    table_stride: tl.tensor, GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr,
    V_DIM: tl.constexpr, PADDED: tl.constexpr, V_PADDED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr, HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_SINKS: tl.constexpr, RETURN_LSE: tl.constexpr,
    PRECISION: tl.constexpr, ONE_LOOP: tl.constexpr, TMA: tl.constexpr, WRITE: tl.constexpr,
    AHEAD: tl.constexpr, SHARED_M: tl.constexpr,
) -> None:  # fmt: skip
    """Grid: max_items * num_kv_heads. Programs without work leave at once.

    ONE_LOOP: mask every tile; else tiles that all rows see take a loop of their own, without masks.
    WRITE: store the step's own keys and values as well. Each program stores those that it reads, so
    this is only for sequences of one entry (decode).
    AHEAD: see `Tile.ahead`.
    SHARED_M: rows of a tile of `shared_kernel`, which has read the keys before `begin`; 0: none.
    """
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
    # A row is one query head of one token, and all rows of a tile share a KV head: a tile of keys
    # is loaded once for the whole group, and decode fills a matrix product's least 16 rows.
    rows = first_row + lane
    in_use = rows < num_rows
    tokens = first_token + rows // GROUP
    heads = head * GROUP + rows % GROUP
    positions = context + rows // GROUP
    num_keys = context + (tl.minimum(first_row + BLOCK_M, num_rows) - 1) // GROUP + 1
    q = query_tile(
        query, tokens, heads, in_use, query_stride, query_head_stride, k_cache, DIM, PADDED,
    )  # fmt: skip
    if SHARED_M > 0:
        parts = shared_parts(shared_rows + tl.load(item + 6) * _ROW_WORDS)

    if WRITE:
        # A tile that has no room for a token's heads has no sequences.
        NEW: tl.constexpr = triton.next_power_of_2(BLOCK_M // GROUP + (GROUP > BLOCK_M))
        new = tl.arange(0, NEW)
        position = context + new
        mine = (new < num_rows // GROUP) & (position >= begin * BLOCK_N)
        mine = mine & (position < end * BLOCK_N)
        if end * BLOCK_N > context:
            slots = tl.load(slot_mapping + first_token + new, mask=mine, other=-1).to(tl.int64)
            write_tokens(
                key, value, k_cache, v_cache, first_token + new, head, slots, mine,
                key_stride, key_head_stride, value_stride, value_head_stride,
                NUM_KV_HEADS, BLOCK_SIZE, DIM, V_DIM, PADDED, V_PADDED,
            )  # fmt: skip
            tl.debug_barrier()  # the loads below see what the program's other threads stored

    # Tiles that every row sees wholly, first_full..full, lie between those cut by the window and
    # those cut by the diagonal.
    first_full = begin
    if HAS_WINDOW:
        lowest = tl.maximum(num_keys - window, 0)
        first_full = tl.minimum(tl.maximum((lowest + BLOCK_N - 1) // BLOCK_N, begin), end)
    full = (context + first_row // GROUP + 1) // BLOCK_N
    full = tl.minimum(tl.maximum(full, first_full), end)

    acc = tl.zeros([BLOCK_M, V_PADDED], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for phase in tl.static_range(3):
        if (phase == 2) if ONE_LOOP else (phase > 0 or HAS_WINDOW):
            low = begin if phase == 0 or ONE_LOOP else (first_full if phase == 1 else full)
            high = end if phase == 2 else (full if phase == 1 else first_full)
            acc, peak, total = attend_tiles(
                acc, peak, total, q, k_cache, v_cache, k_tiles, v_tiles, block_table, head,
                low, high, positions, num_keys, window, scale, softcap,
                BLOCK_N, BLOCK_SIZE, NUM_KV_HEADS, DIM, V_DIM, PADDED, V_PADDED,
                HAS_WINDOW, HAS_SOFTCAP, PRECISION, phase != 1, TMA, AHEAD,
            )  # fmt: skip
    last = splits == 1
    if splits > 1:
        slot = (tl.load(item + 8) * NUM_KV_HEADS + head).to(tl.int64) * BLOCK_M + lane
        keep(acc, peak, total, part_acc, part_stats, slot, in_use, V_DIM, V_PADDED)
        tl.debug_barrier()  # all threads' stores come before this program's arrival
        counter = counters + tl.load(item + 10) * NUM_KV_HEADS + head
        last = tl.atomic_add(counter, 1, sem="acq_rel") == splits - 1
        if last:
            tl.store(counter, 0)  # ready for the next layer
            acc, peak, total = combine(
                part_acc, part_stats, tl.load(item + 9), splits, head, lane, in_use,
                NUM_KV_HEADS, BLOCK_M, V_DIM, V_PADDED,
            )  # fmt: skip
    if last:
        if SHARED_M > 0:
            acc, peak, total = merge_shared(
                acc, peak, total, shared_acc, shared_stats, parts, head, rows, in_use,
                GROUP, NUM_KV_HEADS, SHARED_M, V_DIM, V_PADDED,
            )  # fmt: skip
        write(
            acc, peak, total, out, lse, sinks, tokens, heads, in_use,
            GROUP * NUM_KV_HEADS, V_DIM, V_PADDED, HAS_SINKS, RETURN_LSE,
        )  # fmt: skip


settle_keys(attention_kernel)
