"""The end of the attention kernel: merging the pieces of a split entry, writing the result."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["combine", "keep", "merge_shared", "shared_parts", "write"]

_LN2 = tl.constexpr(0.6931471805599453)
_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def keep(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, part_acc: tl.tensor, part_stats: tl.tensor,
    slot: tl.tensor, in_use: tl.tensor, V_DIM: tl.constexpr, V_PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Leave the softmax over some keys in the rows `slot` of a workspace, for `_merge`."""
    dims = tl.arange(0, V_PADDED)
    places = part_acc + slot[:, None] * V_DIM + dims[None, :]
    tl.store(places, acc, mask=in_use[:, None] & (dims < V_DIM)[None, :])
    tl.store(part_stats + slot * 2, peak, mask=in_use)
    tl.store(part_stats + slot * 2 + 1, total, mask=in_use)


@triton.jit  # type: ignore[untyped-decorator]
def _merge(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, part_acc: tl.tensor, part_stats: tl.tensor,
    slot: tl.tensor, in_use: tl.tensor, V_DIM: tl.constexpr, V_PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Join the softmax over other keys that lies in the rows `slot` of a workspace."""
    dims = tl.arange(0, V_PADDED)
    part_peak = tl.load(
        part_stats + slot * 2, mask=in_use, other=float("-inf"), cache_modifier=".cg"
    )
    part_total = tl.load(part_stats + slot * 2 + 1, mask=in_use, other=0.0, cache_modifier=".cg")
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
    return acc, new_peak, total


@triton.jit  # type: ignore[untyped-decorator]
def shared_parts(record: tl.tensor) -> tl.tuple:
    """Where the parts that `merge_shared` joins lie, of two levels. `record`: the sequence's words
    of `SharedReads.rows`. A short sequence waits for loads in turn most of its time: this one is
    for the beginning, beside others."""
    return (
        tl.load(record + 1), tl.load(record + 2), tl.load(record + 3),
        tl.load(record + 4), tl.load(record + 5), tl.load(record + 6),
    )  # fmt: skip


@triton.jit  # type: ignore[untyped-decorator]
def merge_shared(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, part_acc: tl.tensor, part_stats: tl.tensor,
    parts: tl.tuple, head: tl.tensor, rows: tl.tensor, in_use: tl.tensor, GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, BLOCK_M: tl.constexpr, V_DIM: tl.constexpr, V_PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Join what was read for several sequences at once: two levels, each split along its keys.

    `parts`: see `shared_parts`; BLOCK_M: rows of a shared item's tile.
    """
    for level in tl.static_range(2):
        first = parts[3 * level]
        place = parts[3 * level + 2] * GROUP + rows
        for piece in range(parts[3 * level + 1]):
            slot = ((first + piece) * NUM_KV_HEADS + head).to(tl.int64) * BLOCK_M + place
            acc, peak, total = _merge(
                acc, peak, total, part_acc, part_stats, slot, in_use, V_DIM, V_PADDED
            )
    return acc, peak, total


@triton.jit  # type: ignore[untyped-decorator]
def combine(
    part_acc: tl.tensor, part_stats: tl.tensor, first_slot: tl.tensor, splits: tl.tensor,
    head: tl.tensor, rows: tl.tensor, in_use: tl.tensor, NUM_KV_HEADS: tl.constexpr,
    BLOCK_M: tl.constexpr, V_DIM: tl.constexpr, V_PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Merge the pieces of one entry, in order."""
    acc = tl.zeros([BLOCK_M, V_PADDED], tl.float32)
    peak = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    STAGES: tl.constexpr = 4 if BLOCK_M <= 16 else 1  # a long sequence has many small pieces
    for piece in tl.range(0, splits, num_stages=STAGES):
        slot = ((first_slot + piece) * NUM_KV_HEADS + head).to(tl.int64) * BLOCK_M + rows
        acc, peak, total = _merge(
            acc, peak, total, part_acc, part_stats, slot, in_use, V_DIM, V_PADDED
        )
    return acc, peak, total


@triton.jit  # type: ignore[untyped-decorator]
def write(
    acc: tl.tensor, peak: tl.tensor, total: tl.tensor, out: tl.tensor, lse: tl.tensor,
    sinks: tl.tensor, tokens: tl.tensor, heads: tl.tensor, in_use: tl.tensor,
    NUM_HEADS: tl.constexpr, V_DIM: tl.constexpr, V_PADDED: tl.constexpr, HAS_SINKS: tl.constexpr,
    RETURN_LSE: tl.constexpr,
) -> None:  # fmt: skip
    """Normalise (a sink joins the denominator here, once) and store [tokens, heads, V_DIM]."""
    dims = tl.arange(0, V_PADDED)
    if HAS_SINKS:
        sink = tl.load(sinks + heads, mask=in_use, other=0.0).to(tl.float32) * _LOG2E
        new_peak = tl.maximum(peak, sink)
        fade = tl.exp2(peak - new_peak)
        total = total * fade + tl.exp2(sink - new_peak)
        acc = acc * fade[:, None]
        peak = new_peak
    total = tl.where(total == 0.0, 1.0, total)  # rows past the end see nothing
    result = acc / total[:, None]
    row = tokens.to(tl.int64) * NUM_HEADS + heads
    tl.store(
        out + row[:, None] * V_DIM + dims[None, :],
        result.to(out.dtype.element_ty),
        mask=in_use[:, None] & (dims < V_DIM)[None, :],
    )
    if RETURN_LSE:
        tl.store(lse + row, (peak + tl.log2(total)) * _LN2, mask=in_use)
