"""How products of experts are cut among a GPU's cores: by the rows that an expert has in the mean.

Chosen by reckoning for an H200: a core has some 100 KiB on their way from memory, lines are read
whole, and a tile holds all rows of nearly every expert, so that its weights are read once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from batchgen.engine.quantization.tiles import fitting_stages

__all__ = ["WORDS", "Tile", "down_tile", "fitted", "gate_up_tile", "row_block"]


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes: some outputs of some rows of one expert."""

    rows: int
    outputs: int
    """Of a product with gates and ups: so many of each."""
    inputs: int
    """Of a step."""
    num_warps: int
    num_stages: int
    """Steps that are on their way from memory at once."""


WORDS = torch.int16
"""Of weights in 4 bits."""
_ROW_BYTES = 128
"""Of a weight, read in one step: a line of the cache."""
_INPUTS = 128
"""Of a step, where weights are words."""


def row_block(num_pairs: int, num_experts: int, dtype: torch.dtype) -> int:
    """Rows of a tile. Counts of rows scatter by the root of their mean."""
    mean = num_pairs / min(num_pairs, num_experts)
    rows = 16 if mean <= 6 else 32 if mean <= 22 else 64 if mean <= 48 else 128
    return min(rows, 64) if dtype == WORDS else rows


def gate_up_tile(rows: int, dtype: torch.dtype) -> Tile:
    """Two weights are read for each output."""
    if dtype == torch.float32:
        return Tile(rows, 32, _ROW_BYTES // 4, 4, 3)
    if dtype == WORDS:
        return Tile(rows, 64, _INPUTS, 4, 5) if rows <= 32 else Tile(rows, 128, _INPUTS, 8, 4)
    inputs = _ROW_BYTES // dtype.itemsize
    if rows <= 32:
        return Tile(rows, 64, inputs, 4, 5)
    return Tile(rows, 64, inputs, 4, 3) if rows == 64 else Tile(rows, 128, inputs, 8, 3)


def down_tile(rows: int, dtype: torch.dtype) -> Tile:
    """As `gate_up_tile`, one weight for each output."""
    if dtype == torch.float32:
        return Tile(rows, 64, _ROW_BYTES // 4, 4, 3)
    if dtype == WORDS:
        return Tile(rows, 128, _INPUTS, 4 if rows <= 32 else 8, 5 if rows <= 32 else 4)
    inputs = _ROW_BYTES // dtype.itemsize
    if rows <= 32:
        return Tile(rows, 128, inputs, 4, 5)
    return Tile(rows, 128, inputs, 4, 3) if rows == 64 else Tile(rows, 128, inputs, 8, 4)


def fitted(tile: Tile, weights: int, dtype: torch.dtype, device: torch.device) -> Tile:
    """The tile, with no more stages than the device's cores have room for: `weights` are read for
    each output."""
    weight_bytes = 0.5 if dtype == WORDS else dtype.itemsize
    row_bytes = 2 if dtype == WORDS else dtype.itemsize
    step = (weights * tile.outputs * weight_bytes + tile.rows * row_bytes) * tile.inputs
    return replace(tile, num_stages=fitting_stages(tile.num_stages, int(step), device))
