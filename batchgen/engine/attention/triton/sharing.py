"""Reading keys once for several sequences: when it can be, how it is cut, and the launch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from batchgen.engine.attention.interface import (
    MAX_SHARED_ITEMS,
    SHARED_WORDS,
    AttentionMetadata,
    AttentionSpec,
    SharingShape,
)
from batchgen.engine.attention.triton.cache import PagedCache, descriptors
from batchgen.engine.attention.triton.launches import constants, scale_of
from batchgen.engine.attention.triton.shared import shared_kernel
from batchgen.engine.attention.triton.tuning import Tile
from batchgen.engine.attention.triton.workspace import Workspace
from batchgen.engine.gpu import num_sms

__all__ = ["common_spec", "read_items", "read_shared", "sharing_shape"]

_WORTH_BYTES = 24 << 20
"""Of one layer, not read again: what a further kernel and its merge take on a Hopper GPU."""


def common_spec(specs: Sequence[AttentionSpec]) -> AttentionSpec | None:
    """What the layers without a window have in common, if they are of one kind."""
    whole = [spec for spec in specs if spec.sliding_window is None]
    kinds = {(s.num_heads, s.num_kv_heads, s.head_dim, s.v_head_dim) for s in whole}
    return whole[0] if len(kinds) == 1 else None


def sharing_shape(
    spec: AttentionSpec,
    dtype: torch.dtype,
    block_size: int,
    device: torch.device,
    decode: Tile,
    tiles: tuple[Tile, Tile],
) -> SharingShape | None:
    """None where a tile has no room for the heads of two sequences. `tiles`: as `read_shared`."""
    few, full = tiles
    group = spec.num_heads // spec.num_kv_heads
    members = full.block_m // group
    if members < 2 or group > decode.block_m:
        return None
    key_bytes = spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * dtype.itemsize
    return SharingShape(
        members=members,
        grain=math.lcm(block_size, few.block_n, full.block_n, decode.block_n),
        wanted_items=max(1, full.items_per_sm * num_sms(device) // spec.num_kv_heads),
        max_items=MAX_SHARED_ITEMS,
        worth_keys=_WORTH_BYTES // key_bytes,
    )


def read_shared(
    query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
    cache: PagedCache,
    spec: AttentionSpec,
    metadata: AttentionMetadata,
    tiles: tuple[Tile, Tile],
    space: Workspace,
) -> None:
    """Attend to the keys that sequences share; the decode launch merges what comes out. `tiles`:
    for items of few rows, and of up to all that an item may have."""
    few, full = tiles
    read_items(query, cache, spec, metadata, few, 0, full.block_m, space)
    if full.block_m > few.block_m:
        read_items(query, cache, spec, metadata, full, few.block_m, full.block_m, space)


def read_items(
    query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
    cache: PagedCache,
    spec: AttentionSpec,
    metadata: AttentionMetadata,
    tile: Tile,
    fewer: int,
    slots: int,
    space: Workspace,
) -> None:
    """`read_shared` for items of more than `fewer` rows, and no more than the tile has. `slots`:
    rows that each item has in the workspace."""
    shared = metadata.shared
    assert shared is not None
    shared_kernel[(shared.items.numel() // SHARED_WORDS * spec.num_kv_heads,)](
        query,
        *descriptors(cache, tile),
        cache.keys,
        cache.values,
        shared.items,
        shared.members,
        metadata.cu_seqlens_q,
        metadata.block_tables,
        space.shared_acc,
        space.shared_stats,
        scale_of(spec),
        spec.softcap or 0.0,
        query.stride(0),
        query.stride(1),
        metadata.block_tables.stride(0),
        GROUP=spec.num_heads // spec.num_kv_heads,
        FEWER=fewer,
        SLOTS=slots,
        **constants(spec, cache.block_size, tile, query.dtype),
    )
