"""Which program of the attention kernel works on what, computed on the GPU once a step.

A *row* is one query head of one query token; the rows of a sequence that share a KV head are cut
into tiles of `block_m` (an *entry*). Long entries are split along the keys so that the step has
about `items_per_head` pieces of work for each KV head, whatever the lengths: each piece is an
*item*, one program per KV head. Grids depend on bucket sizes alone, so a captured plan stays right
for other lengths. One program computes the plan: prefix sums and binary searches, a few us.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from batchgen.engine.attention.interface import AttentionMetadata

__all__ = ["ITEM_WORDS", "Plan", "PlanKey", "ceil_div", "make_plan"]

ITEM_WORDS = 16
"""int32 words of an item, 64 bytes: first query token, first row, rows of the sequence, position
of the first query token, first tile of keys, end tile, sequence, splits, slot, first slot, entry.
"""
_CHUNK = 1024
_SIZES = [
    *("num_seqs", "max_entries", "max_items", "num_counters", "window", "min_rows", "max_rows"),
    *("items_per_head", "min_tiles", "seq_steps", "entry_steps"),
]
"""Arguments that differ from bucket to bucket and must not cause a compilation each."""
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on besides the step; layers with equal keys share one."""

    group: int
    """Query heads of a KV head."""
    num_kv_heads: int
    block_m: int
    block_n: int
    window: int
    """0: none."""
    min_rows: int
    """Sequences with more than `min_rows` and at most `max_rows` rows belong to this plan."""
    max_rows: int | None
    items_per_head: int
    min_tiles: int
    """An entry is not split into pieces shorter than this many tiles of keys."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Device tables of one step."""

    items: torch.Tensor  # int32 [max_items, ITEM_WORDS]; unused ones have no tiles
    counters: torch.Tensor  # int32 [max_entries * num_kv_heads]: splits that have finished
    max_items: int


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def max_entries(key: PlanKey, num_tokens: int, num_seqs: int) -> int:
    """The most row tiles that a step of this bucket can have."""
    rows = num_tokens * key.group
    sequences = min(num_seqs, rows // (key.min_rows + 1))
    if key.max_rows is not None and key.max_rows <= key.block_m:
        return max(1, sequences)
    return max(1, rows // key.block_m + sequences)


def make_plan(key: PlanKey, metadata: AttentionMetadata) -> Plan:
    """Launch the plan kernel for this step; no host sync, may be captured in a CUDA graph."""
    device = metadata.cu_seqlens_q.device
    num_seqs = metadata.cu_seqlens_q.shape[0] - 1  # the bucket's: padded ones have no queries
    entries = max_entries(key, metadata.slot_mapping.shape[0], num_seqs)
    max_items = entries + key.items_per_head
    items = torch.empty((max_items, ITEM_WORDS), dtype=torch.int32, device=device)
    counters = torch.empty(entries * key.num_kv_heads, dtype=torch.int32, device=device)
    scratch = torch.empty(num_seqs + 6 * entries, dtype=torch.int32, device=device)
    plan_kernel[(1,)](
        metadata.cu_seqlens_q,
        metadata.seq_lens,
        items,
        counters,
        scratch,
        num_seqs,
        entries,
        max_items,
        entries * key.num_kv_heads,
        key.window,
        key.min_rows,
        _NO_LIMIT if key.max_rows is None else key.max_rows,
        key.items_per_head,
        key.min_tiles,
        num_seqs.bit_length(),
        entries.bit_length(),
        GROUP=key.group,
        BLOCK_M=key.block_m,
        BLOCK_N=key.block_n,
        CHUNK=min(_CHUNK, triton.next_power_of_2(max(num_seqs, max_items, 32))),
        WORDS=ITEM_WORDS,
        num_warps=8,
    )
    return Plan(items, counters, max_items)


@triton.jit  # type: ignore[untyped-decorator]
def _search(table: tl.tensor, wanted: tl.tensor, count: tl.tensor, steps: tl.tensor) -> tl.tensor:
    """The largest i in [0, count) with table[i] <= wanted, for each element of `wanted`."""
    low = tl.zeros_like(wanted)
    high = low + count
    for _ in range(steps):
        middle = (low + high) // 2
        below = tl.load(table + middle) <= wanted
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle)
    return low


@triton.jit(do_not_specialize=_SIZES)  # type: ignore[untyped-decorator]
def plan_kernel(
    cu_seqlens: tl.tensor,
    seq_lens: tl.tensor,
    items: tl.tensor,
    counters: tl.tensor,
    scratch: tl.tensor,
    num_seqs: tl.tensor,
    max_entries: tl.tensor,
    max_items: tl.tensor,
    num_counters: tl.tensor,
    window: tl.tensor,
    min_rows: tl.tensor,
    max_rows: tl.tensor,
    items_per_head: tl.tensor,
    min_tiles: tl.tensor,
    seq_steps: tl.tensor,
    entry_steps: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr,
    WORDS: tl.constexpr,
) -> None:
    """Fill `items` for sequences with min_rows < rows <= max_rows; one program."""
    lane = tl.arange(0, CHUNK)
    first_entry = scratch  # [num_seqs]: entries of the sequences before
    entry_seq = scratch + num_seqs
    entry_row = entry_seq + max_entries
    entry_tile = entry_row + max_entries
    entry_tiles = entry_tile + max_entries
    first_item = entry_tiles + max_entries
    first_slot = first_item + max_entries

    for start in range(0, num_counters, CHUNK):
        tl.store(counters + start + lane, 0, mask=start + lane < num_counters)

    num_entries = 0
    for start in range(0, num_seqs, CHUNK):
        seq = start + lane
        there = seq < num_seqs
        queries = tl.load(cu_seqlens + seq + 1, mask=there, other=0)
        queries -= tl.load(cu_seqlens + seq, mask=there, other=0)
        rows = queries * GROUP
        rows = tl.where((rows > min_rows) & (rows <= max_rows), rows, 0)
        tiles = (rows + BLOCK_M - 1) // BLOCK_M
        tl.store(first_entry + seq, num_entries + tl.cumsum(tiles, 0) - tiles, mask=there)
        num_entries += tl.sum(tiles, 0)
    tl.debug_barrier()

    num_tiles = 0
    for start in range(0, num_entries, CHUNK):
        entry = start + lane
        there = entry < num_entries
        seq = _search(first_entry, entry, num_seqs, seq_steps)
        begin = tl.load(cu_seqlens + seq)
        queries = tl.load(cu_seqlens + seq + 1) - begin
        rows = queries * GROUP
        last = (rows + BLOCK_M - 1) // BLOCK_M - 1
        row = (last - (entry - tl.load(first_entry + seq))) * BLOCK_M  # the longest ones first
        context = tl.load(seq_lens + seq) - queries
        keys = context + (tl.minimum(row + BLOCK_M, rows) - 1) // GROUP + 1
        tile = tl.zeros_like(keys)
        if window > 0:
            tile = tl.maximum(context + row // GROUP - window + 1, 0) // BLOCK_N
        tiles = tl.where(there, (keys + BLOCK_N - 1) // BLOCK_N - tile, 0)
        tl.store(entry_seq + entry, seq, mask=there)
        tl.store(entry_row + entry, row, mask=there)
        tl.store(entry_tile + entry, tile, mask=there)
        tl.store(entry_tiles + entry, tiles, mask=there)
        num_tiles += tl.sum(tiles, 0)
    tl.debug_barrier()

    longest = tl.maximum((num_tiles + items_per_head - 1) // items_per_head, min_tiles)
    num_items = 0
    num_slots = 0
    for start in range(0, num_entries, CHUNK):
        entry = start + lane
        there = entry < num_entries
        splits = (tl.load(entry_tiles + entry, mask=there, other=0) + longest - 1) // longest
        slots = tl.where(splits > 1, splits, 0)
        tl.store(first_item + entry, num_items + tl.cumsum(splits, 0) - splits, mask=there)
        tl.store(first_slot + entry, num_slots + tl.cumsum(slots, 0) - slots, mask=there)
        num_items += tl.sum(splits, 0)
        num_slots += tl.sum(slots, 0)
    tl.debug_barrier()

    for start in range(0, max_items, CHUNK):
        item = start + lane
        there = item < num_items
        wanted = tl.minimum(item, tl.maximum(num_items - 1, 0))
        out = items + item * WORDS
        if num_items > 0:
            entry = _search(first_item, wanted, num_entries, entry_steps)
            seq = tl.load(entry_seq + entry)
            begin = tl.load(cu_seqlens + seq)
            queries = tl.load(cu_seqlens + seq + 1) - begin
            tile = tl.load(entry_tile + entry)
            tiles = tl.load(entry_tiles + entry)
            splits = (tiles + longest - 1) // longest
            split = wanted - tl.load(first_item + entry)
            slot = tl.load(first_slot + entry)
            tl.store(out, begin, mask=there)
            tl.store(out + 1, tl.load(entry_row + entry), mask=there)
            tl.store(out + 2, queries * GROUP, mask=there)
            tl.store(out + 3, tl.load(seq_lens + seq) - queries, mask=there)
            tl.store(out + 4, tile + tiles * split // splits, mask=there)
            tl.store(out + 5, tile + tiles * (split + 1) // splits, mask=there)
            tl.store(out + 6, seq, mask=there)
            tl.store(out + 7, splits, mask=there)
            tl.store(out + 8, slot + split, mask=there)
            tl.store(out + 9, slot, mask=there)
            tl.store(out + 10, entry, mask=there)
        idle = (item >= num_items) & (item < max_items)
        tl.store(out + 4, tl.zeros_like(item), mask=idle)
        tl.store(out + 5, tl.zeros_like(item), mask=idle)
        tl.store(out + 7, tl.zeros_like(item), mask=idle)
