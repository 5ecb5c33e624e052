"""Leading keys that several decoding rows have in common, read once for all of them (cascade
attention; Hydragen, arXiv:2402.05099).

The query heads of a KV head and the rows of an item form one tile, as the tokens of a prompt do:
a dense product over keys that every row sees whole. What comes out, an accumulator with the peak
and the total of its softmax, waits in a workspace until the decode kernel has read the rest of each
row's keys, and merges both (`reduce.merge_shared`). Items along one stretch of keys split it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from batchgen.engine.attention.triton.reduce import keep
from batchgen.engine.attention.triton.tiles import attend_tiles, query_tile

__all__ = ["shared_kernel"]

_ITEM_WORDS = tl.constexpr(8)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=["items", "members", "cu_seqlens"],  # views of inputs
)
def shared_kernel(
    query: tl.tensor, k_tiles: tl.tensor, v_tiles: tl.tensor, k_cache: tl.tensor,
    v_cache: tl.tensor, items: tl.tensor, members: tl.tensor, cu_seqlens: tl.tensor,
    block_tables: tl.tensor, part_acc: tl.tensor, part_stats: tl.tensor, scale: tl.tensor,
    softcap: tl.tensor, query_stride: tl.tensor, query_head_stride: tl.tensor,
    table_stride: tl.tensor, GROUP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr,
    V_DIM: tl.constexpr, PADDED: tl.constexpr, V_PADDED: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_SIZE: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr, TMA: tl.constexpr, AHEAD: tl.constexpr, FEWER: tl.constexpr,
    SLOTS: tl.constexpr,
) -> None:  # fmt: skip
    """Grid: max_items * num_kv_heads. Programs whose item has no keys leave at once, and those
    whose item has at most `FEWER` rows, or more than a tile: another launch does it.
    SLOTS: rows of the workspace that each item and head has.

    Item words: a sequence whose table names the keys, first of `members`, how many, first key, end.
    """
    head = tl.program_id(0) % NUM_KV_HEADS
    number = tl.program_id(0) // NUM_KV_HEADS
    item = items + number * _ITEM_WORDS
    begin = tl.load(item + 3)
    end = tl.load(item + 4)
    if begin >= end:
        return
    num_rows = tl.load(item + 2) * GROUP
    if num_rows <= FEWER:
        return
    if num_rows > BLOCK_M:
        return
    lane = tl.arange(0, BLOCK_M)
    in_use = lane < num_rows
    sequences = tl.load(members + tl.load(item + 1) + lane // GROUP, mask=in_use, other=0)
    tokens = tl.load(cu_seqlens + sequences, mask=in_use, other=0)
    heads = head * GROUP + lane % GROUP
    q = query_tile(
        query, tokens, heads, in_use, query_stride, query_head_stride, k_cache, DIM, PADDED,
    )  # fmt: skip
    block_table = block_tables + tl.load(item).to(tl.int64) * table_stride
    acc = tl.zeros([BLOCK_M, V_PADDED], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc, peak, total = attend_tiles(
        acc, peak, total, q, k_cache, v_cache, k_tiles, v_tiles, block_table, head,
        begin // BLOCK_N, end // BLOCK_N, lane, end, 0, scale, softcap,
        BLOCK_N, BLOCK_SIZE, NUM_KV_HEADS, DIM, V_DIM, PADDED, V_PADDED,
        False, HAS_SOFTCAP, PRECISION, False, TMA, AHEAD,
    )  # fmt: skip
    slot = (number * NUM_KV_HEADS + head).to(tl.int64) * SLOTS + lane
    keep(acc, peak, total, part_acc, part_stats, slot, in_use, V_DIM, V_PADDED)
