"""Attention on a GPU that sums a row's keys in one order: by its own length alone.

Decodes and chunks have one and the same tile, in 16 bits that of decodes. It begins at multiples of
its own keys and is masked alike; nothing is split among programs, and nothing is read for several
rows at once. A tile that a row does not see leaves its softmax as it is, bit for bit: so it does
not matter which other tokens lie in a row's tile. A step of few rows decodes slower for that: one
program reads all keys of a row and head. So do long prompts: few of their tokens share a read.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from batchgen.engine.attention.interface import AttentionSpec
from batchgen.engine.attention.triton.paged import TritonBackend
from batchgen.engine.attention.triton.tuning import Decodes, Tile, decode_tile, fitted, padded
from batchgen.engine.gpu import shared_memory

__all__ = ["steady_attention", "whole_tile"]

_NEVER_SPLIT = 1 << 24
"""Tiles of keys: more than any row has."""


def steady_attention() -> TritonBackend:
    """The backend with one tile for every row."""
    return TritonBackend(decode_tuner=whole_tile, chunk_tuner=whole_tile, shares=False)


def whole_tile(
    spec: AttentionSpec,
    dtype: torch.dtype,
    block_size: int,
    device: torch.device,
    _: Decodes = Decodes.FEW,
) -> Tile:
    """By the layer's shape and the card, whatever decodes beside it."""
    if dtype == torch.float32:
        rows = 32 if padded(max(spec.head_dim, spec.v_head_dim)) <= 128 else 16
        tile = fitted(Tile(rows, 32, 4, 2, 2), spec, dtype, shared_memory(device))
    else:
        tile = decode_tile(spec, dtype, block_size, device)
    return replace(tile, min_tiles=_NEVER_SPLIT)
