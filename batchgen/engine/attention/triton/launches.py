"""What a kind of layer launches: how its decodes and its chunks are tiled, and by which plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.attention.triton.device import num_sms
from batchgen.engine.attention.triton.plan import PlanKey, ceil_div
from batchgen.engine.attention.triton.tuning import Tile

__all__ = ["Launch", "make_launch", "needed", "workspace_rows"]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch for one kind of layer: how it is tiled and which plan it follows."""

    tile: Tile
    key: PlanKey


def make_launch(
    spec: AttentionSpec, tile: Tile, min_rows: int, max_rows: int | None, device: torch.device
) -> Launch:
    """For sequences with more than `min_rows` and at most `max_rows` rows."""
    items = ceil_div(tile.items_per_sm * num_sms(device), spec.num_kv_heads)
    key = PlanKey(
        group=spec.num_heads // spec.num_kv_heads,
        num_kv_heads=spec.num_kv_heads,
        block_m=tile.block_m,
        block_n=tile.block_n,
        window=spec.sliding_window or 0,
        min_rows=min_rows,
        max_rows=max_rows,
        items_per_head=items,
        min_tiles=tile.min_tiles,
    )
    return Launch(tile, key)


def needed(launches: tuple[Launch, Launch], metadata: AttentionMetadata) -> tuple[Launch, ...]:
    """Chunks only where a sequence of the bucket may have more rows than a decode tile."""
    decode, _ = launches
    if metadata.max_seqlen_q * decode.key.group <= decode.key.block_m:
        return (decode,)
    return launches


def workspace_rows(key: PlanKey) -> int:
    """Split entries make fewer than two items for each one aimed at."""
    return 2 * key.items_per_head * key.num_kv_heads * key.block_m
