"""The kernel that computes a plan (see `plan.py`): one program, four passes over the step."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["NUM_LENGTHS", "plan_kernel", "slots_kernel"]

NUM_LENGTHS = 64
"""Classes of length by which items are ordered."""
_SIZES = [
    *("num_seqs", "max_entries", "max_items", "num_counters", "window", "min_rows", "max_rows"),
    *("items_per_head", "min_tiles", "seq_steps", "entry_steps"),
]
"""Arguments that differ from bucket to bucket and must not cause a compilation each."""


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


@triton.jit  # type: ignore[untyped-decorator]
def _count_entries(
    cu_seqlens: tl.tensor, first_entry: tl.tensor, num_seqs: tl.tensor, min_rows: tl.tensor,
    max_rows: tl.tensor, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, CHUNK: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Entries before each sequence, and of all."""
    num_entries = 0
    for start in range(0, num_seqs, CHUNK):
        seq = start + tl.arange(0, CHUNK)
        there = seq < num_seqs
        queries = tl.load(cu_seqlens + seq + 1, mask=there, other=0)
        queries -= tl.load(cu_seqlens + seq, mask=there, other=0)
        rows = queries * GROUP
        rows = tl.where((rows > min_rows) & (rows <= max_rows), rows, 0)
        tiles = (rows + BLOCK_M - 1) // BLOCK_M
        tl.store(first_entry + seq, num_entries + tl.cumsum(tiles, 0) - tiles, mask=there)
        num_entries += tl.sum(tiles, 0)
    tl.debug_barrier()
    return num_entries


@triton.jit  # type: ignore[untyped-decorator]
def _list_entries(
    cu_seqlens: tl.tensor, seq_lens: tl.tensor, first_entry: tl.tensor, entries: tl.tensor,
    num_seqs: tl.tensor, num_entries: tl.tensor, max_entries: tl.tensor, window: tl.tensor,
    seq_steps: tl.tensor, shared_rows: tl.tensor, GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, CHUNK: tl.constexpr, SHARED: tl.constexpr, ROW_WORDS: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Sequence, first row, first tile of keys and tiles of each entry; all tiles, and the most."""
    num_tiles = 0
    most_tiles = 0
    for start in range(0, num_entries, CHUNK):
        entry = start + tl.arange(0, CHUNK)
        there = entry < num_entries
        seq = _search(first_entry, entry, num_seqs, seq_steps)
        queries = tl.load(cu_seqlens + seq + 1) - tl.load(cu_seqlens + seq)
        rows = queries * GROUP
        row = (entry - tl.load(first_entry + seq)) * BLOCK_M
        context = tl.load(seq_lens + seq) - queries
        keys = context + (tl.minimum(row + BLOCK_M, rows) - 1) // GROUP + 1
        tile = tl.zeros_like(keys)
        if window > 0:
            tile = tl.maximum(context + row // GROUP - window + 1, 0) // BLOCK_N
        if SHARED:  # its first keys are read for several sequences at once
            tile = tl.load(shared_rows + seq * ROW_WORDS) // BLOCK_N
        tiles = tl.where(there, (keys + BLOCK_N - 1) // BLOCK_N - tile, 0)
        tl.store(entries + entry, seq, mask=there)
        tl.store(entries + max_entries + entry, row, mask=there)
        tl.store(entries + 2 * max_entries + entry, tile, mask=there)
        tl.store(entries + 3 * max_entries + entry, tiles, mask=there)
        num_tiles += tl.sum(tiles, 0)
        most_tiles = tl.maximum(most_tiles, tl.max(tiles, 0))
    tl.debug_barrier()
    return num_tiles, most_tiles


@triton.jit  # type: ignore[untyped-decorator]
def _split_entries(
    entries: tl.tensor,
    lengths: tl.tensor,
    num_entries: tl.tensor,
    max_entries: tl.tensor,
    longest: tl.tensor,
    most_tiles: tl.tensor,
    LENGTHS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """First item, first slot and place in the order of each entry; the number of items.

    Places are a counting sort by length. Which of two entries of one class comes first is left to
    chance; it decides only when their items run.
    """
    length = tl.arange(0, LENGTHS)
    tl.store(lengths + length, tl.zeros_like(length))
    tl.debug_barrier()
    most = tl.minimum(longest, most_tiles)
    num_items = 0
    num_slots = 0
    for start in range(0, num_entries, CHUNK):
        entry = start + tl.arange(0, CHUNK)
        there = entry < num_entries
        tiles = tl.load(entries + 3 * max_entries + entry, mask=there, other=0)
        splits = (tiles + longest - 1) // longest
        slots = tl.where(splits > 1, splits, 0)
        first_item = num_items + tl.cumsum(splits, 0) - splits
        first_slot = num_slots + tl.cumsum(slots, 0) - slots
        tl.store(entries + 4 * max_entries + entry, first_item, mask=there)
        tl.store(entries + 5 * max_entries + entry, first_slot, mask=there)
        tl.atomic_add(lengths + _shortness(tiles, splits, most, LENGTHS), splits, mask=there)
        num_items += tl.sum(splits, 0)
        num_slots += tl.sum(slots, 0)
    tl.debug_barrier()
    counts = tl.load(lengths + length, cache_modifier=".cg")
    tl.store(lengths + LENGTHS + length, tl.cumsum(counts, 0) - counts)
    tl.debug_barrier()
    for start in range(0, num_entries, CHUNK):
        entry = start + tl.arange(0, CHUNK)
        there = entry < num_entries
        tiles = tl.load(entries + 3 * max_entries + entry, mask=there, other=0)
        splits = (tiles + longest - 1) // longest
        place = lengths + LENGTHS + _shortness(tiles, splits, most, LENGTHS)
        tl.store(
            entries + 6 * max_entries + entry, tl.atomic_add(place, splits, mask=there), mask=there
        )
    tl.debug_barrier()
    return num_items


@triton.jit  # type: ignore[untyped-decorator]
def _shortness(
    tiles: tl.tensor, splits: tl.tensor, most: tl.tensor, LENGTHS: tl.constexpr
) -> tl.tensor:
    """Class of an entry's items: 0 for the longest."""
    length = tiles // tl.maximum(splits, 1)
    return (LENGTHS - 1) - tl.minimum(length * LENGTHS // (most + 1), LENGTHS - 1)


@triton.jit  # type: ignore[untyped-decorator]
def _write_items(
    cu_seqlens: tl.tensor, seq_lens: tl.tensor, items: tl.tensor, entries: tl.tensor,
    num_entries: tl.tensor, max_entries: tl.tensor, num_items: tl.tensor, max_items: tl.tensor,
    longest: tl.tensor, entry_steps: tl.tensor, GROUP: tl.constexpr, CHUNK: tl.constexpr,
    WORDS: tl.constexpr,
) -> None:  # fmt: skip
    """Items in order; those of no use get no tiles."""
    for start in range(0, max_items, CHUNK):
        item = start + tl.arange(0, CHUNK)
        there = item < num_items
        if num_items > 0:
            wanted = tl.minimum(item, num_items - 1)
            entry = _search(entries + 4 * max_entries, wanted, num_entries, entry_steps)
            seq = tl.load(entries + entry)
            begin = tl.load(cu_seqlens + seq)
            queries = tl.load(cu_seqlens + seq + 1) - begin
            tile = tl.load(entries + 2 * max_entries + entry)
            tiles = tl.load(entries + 3 * max_entries + entry)
            splits = (tiles + longest - 1) // longest
            split = wanted - tl.load(entries + 4 * max_entries + entry)
            slot = tl.load(entries + 5 * max_entries + entry)
            out = items + (tl.load(entries + 6 * max_entries + entry) + split) * WORDS
            tl.store(out, begin, mask=there)
            tl.store(out + 1, tl.load(entries + max_entries + entry), mask=there)
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
        tl.store(items + item * WORDS + 4, tl.zeros_like(item), mask=idle)
        tl.store(items + item * WORDS + 5, tl.zeros_like(item), mask=idle)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=_SIZES,
    do_not_specialize_on_alignment=["cu_seqlens", "seq_lens", "shared_rows"],  # views of inputs
)
def plan_kernel(
    cu_seqlens: tl.tensor, seq_lens: tl.tensor, items: tl.tensor, counters: tl.tensor,
    scratch: tl.tensor, num_seqs: tl.tensor, max_entries: tl.tensor, max_items: tl.tensor,
    num_counters: tl.tensor, window: tl.tensor, min_rows: tl.tensor, max_rows: tl.tensor,
    items_per_head: tl.tensor, min_tiles: tl.tensor, seq_steps: tl.tensor, entry_steps: tl.tensor,
    shared_rows: tl.tensor, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNK: tl.constexpr, WORDS: tl.constexpr, LENGTHS: tl.constexpr, SHARED: tl.constexpr,
    ROW_WORDS: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `items` for sequences with min_rows < rows <= max_rows.

    scratch: int32 [2 * LENGTHS + num_seqs + 7 * max_entries].
    """
    for start in range(0, num_counters, CHUNK):
        counter = start + tl.arange(0, CHUNK)
        tl.store(counters + counter, tl.zeros_like(counter), mask=counter < num_counters)
    first_entry = scratch + 2 * LENGTHS
    entries = first_entry + num_seqs
    num_entries = _count_entries(
        *(cu_seqlens, first_entry, num_seqs, min_rows, max_rows, GROUP, BLOCK_M, CHUNK)
    )
    num_tiles, most_tiles = _list_entries(
        *(cu_seqlens, seq_lens, first_entry, entries, num_seqs, num_entries, max_entries),
        *(window, seq_steps, shared_rows, GROUP, BLOCK_M, BLOCK_N, CHUNK, SHARED, ROW_WORDS),
    )
    longest = tl.maximum((num_tiles + items_per_head - 1) // items_per_head, min_tiles)
    num_items = _split_entries(
        *(entries, scratch, num_entries, max_entries, longest, most_tiles, LENGTHS, CHUNK)
    )
    _write_items(
        *(cu_seqlens, seq_lens, items, entries, num_entries, max_entries, num_items, max_items),
        *(longest, entry_steps, GROUP, CHUNK, WORDS),
    )


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_tokens", "num_seqs", "most_queries", "seq_steps"],
    do_not_specialize_on_alignment=["cu_seqlens", "slot_mapping"],  # views of inputs
)
def slots_kernel(
    cu_seqlens: tl.tensor, slot_mapping: tl.tensor, out: tl.tensor, num_tokens: tl.tensor,
    num_seqs: tl.tensor, most_queries: tl.tensor, seq_steps: tl.tensor, CHUNK: tl.constexpr,
) -> None:  # fmt: skip
    """Slots of tokens whose sequences have more than `most_queries`; -1 for others."""
    token = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    there = token < num_tokens
    seq = _search(cu_seqlens, token, num_seqs, seq_steps)
    queries = tl.load(cu_seqlens + seq + 1) - tl.load(cu_seqlens + seq)
    slot = tl.load(slot_mapping + token, mask=there & (queries > most_queries), other=-1)
    tl.store(out + token, slot, mask=there)
