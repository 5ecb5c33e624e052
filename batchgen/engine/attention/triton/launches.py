"""What a kind of layer launches: how its decodes and its chunks are tiled, and by which plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.attention.triton.plan import PlanKey, ceil_div
from batchgen.engine.attention.triton.tuning import MANY_SEQUENCES, Decodes, Tile, padded
from batchgen.engine.gpu import num_sms

__all__ = ["Launch", "Launches", "constants", "make_launch", "scale_of"]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch for one kind of layer: how it is tiled and which plan it follows."""

    tile: Tile
    key: PlanKey


def make_launch(
    spec: AttentionSpec,
    tile: Tile,
    min_rows: int,
    max_rows: int | None,
    device: torch.device,
    *,
    shared: bool = False,
) -> Launch:
    """For sequences with more than `min_rows` and at most `max_rows` rows. `shared`: their first
    keys are left out, which `AttentionMetadata.shared` reads."""
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
        shared=shared,
    )
    return Launch(tile, key)


@dataclass(frozen=True, slots=True)
class Launches:
    """What steps of one kind of layer choose from. Decodes have tiles of equally many rows."""

    decodes: Mapping[Decodes, Launch]
    chunks: Launch

    def needed(self, metadata: AttentionMetadata) -> tuple[Launch, Launch | None]:
        """That of the step's decodes; and chunks only where a sequence of the bucket may have more
        rows than a decode tile."""
        few = self.decodes[Decodes.FEW].key
        kind = Decodes.FEW
        if metadata.shared is not None and not few.window:
            kind = Decodes.REST
        elif len(metadata.seq_lens) >= MANY_SEQUENCES:
            kind = Decodes.MANY
        has_chunks = metadata.max_seqlen_q * few.group > few.block_m
        return self.decodes[kind], self.chunks if has_chunks else None

    @property
    def workspace_rows(self) -> tuple[int, int]:
        """Of decodes and of chunks."""
        decodes = max(_workspace_rows(launch.key) for launch in self.decodes.values())
        return decodes, _workspace_rows(self.chunks.key)


def _workspace_rows(key: PlanKey) -> int:
    """Split entries make fewer than two items for each one aimed at."""
    return 2 * key.items_per_head * key.num_kv_heads * key.block_m


def constants(
    spec: AttentionSpec, block_size: int, tile: Tile, dtype: torch.dtype
) -> dict[str, Any]:
    """What both kernels that attend are compiled for, and how they are launched."""
    return {
        "NUM_KV_HEADS": spec.num_kv_heads,
        "DIM": spec.head_dim,
        "V_DIM": spec.v_head_dim,
        "PADDED": padded(spec.head_dim),
        "V_PADDED": padded(spec.v_head_dim),
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_SIZE": block_size,
        "HAS_SOFTCAP": (spec.softcap or 0.0) > 0,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "TMA": tile.tma,
        "AHEAD": tile.ahead and block_size % tile.block_n == 0,
        "maxnreg": tile.max_registers,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def scale_of(spec: AttentionSpec) -> float:
    """What scores are multiplied by: with a soft cap as they are, else for a softmax in base 2."""
    return spec.scale if spec.softcap else spec.scale * math.log2(math.e)
