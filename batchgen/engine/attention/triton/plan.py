"""Which program of the attention kernel works on what, computed on the GPU once a step.

A *row* is one query head of one query token; the rows of a sequence that share a KV head are cut
into tiles of `block_m` (an *entry*). Long entries are split along the keys so that the step has
about `items_per_head` pieces of work for each KV head, whatever the lengths: each piece is an
*item*, one program per KV head, the longest first. Grids depend on bucket sizes alone, so a
captured plan stays right for other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from batchgen.engine.attention.interface import ROW_WORDS, AttentionMetadata
from batchgen.engine.attention.triton.plan_kernel import (
    NUM_LENGTHS,
    plan_kernel,
    slots_kernel,
)

__all__ = ["ITEM_WORDS", "Plan", "PlanKey", "ceil_div", "make_plan"]

ITEM_WORDS = 16
"""int32 words of an item, 64 bytes: first query token, first row, rows of the sequence, position
of the first query token, first tile of keys, end tile, sequence, splits, slot, first slot, entry.
"""
_CHUNK = 1024
_THREADS = 256
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
    shared: bool = False
    """Leave out the keys that `AttentionMetadata.shared` reads."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Device tables of one step."""

    items: torch.Tensor  # int32 [max_items, ITEM_WORDS]; unused ones have no tiles
    counters: torch.Tensor  # int32 [max_entries * num_kv_heads]: splits that have finished
    max_items: int
    slots: torch.Tensor | None = None
    """int [num_tokens], of a plan of chunks: the slots of its sequences' tokens, -1 for others."""


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
    # The most that any step of the bucket has: a captured grid cannot grow, and programs without
    # work leave at once.
    max_items = entries + key.items_per_head
    items = torch.empty((max_items, ITEM_WORDS), dtype=torch.int32, device=device)
    counters = torch.empty(entries * key.num_kv_heads, dtype=torch.int32, device=device)
    scratch = torch.empty(
        2 * NUM_LENGTHS + num_seqs + 7 * entries, dtype=torch.int32, device=device
    )
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
        metadata.seq_lens if metadata.shared is None else metadata.shared.rows,
        GROUP=key.group,
        BLOCK_M=key.block_m,
        BLOCK_N=key.block_n,
        CHUNK=_CHUNK,  # whatever the bucket: compiled once
        WORDS=ITEM_WORDS,
        LENGTHS=NUM_LENGTHS,
        SHARED=key.shared,
        ROW_WORDS=ROW_WORDS,
        num_warps=_THREADS // 32,
    )
    return Plan(items, counters, max_items, _slots(key, metadata) if key.min_rows else None)


def _slots(key: PlanKey, metadata: AttentionMetadata) -> torch.Tensor:
    out = torch.empty_like(metadata.slot_mapping)
    num_tokens, num_seqs = len(out), metadata.cu_seqlens_q.shape[0] - 1
    slots_kernel[(ceil_div(num_tokens, _THREADS),)](
        metadata.cu_seqlens_q,
        metadata.slot_mapping,
        out,
        num_tokens,
        num_seqs,
        key.min_rows // key.group,
        num_seqs.bit_length(),
        CHUNK=_THREADS,
    )
    return out
