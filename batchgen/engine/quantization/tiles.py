"""How a product of a few rows with quantised weights is cut among a GPU's cores.

The rules are those of an H200, where every cut of an 8B model's four products was timed: what they
choose there takes at most 6% longer than the best one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from batchgen.engine.gpu import shared_memory

__all__ = [
    "Tile",
    "block_tile",
    "fitted",
    "fitting_stages",
    "float8_tile",
    "hopper_tile",
    "integer_tile",
    "prefers_tiles",
]


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program computes: sums over a part of the inputs."""

    rows: int
    outputs: int
    splits: int
    """Parts of the inputs, summed by programs of their own and added in order afterwards."""
    num_warps: int
    num_stages: int
    """Steps that are on their way from memory at once."""
    per_core: int = 1
    """Programs that a core is to have room for."""


_CORES = 132
"""Of a Hopper GPU, each with a program or two: while one waits, the other multiplies."""
_FEW_ROWS = 256
"""Up to here a product's time is that of reading its weight."""
_HOPPER = (
    (Tile(16, 128, 1, 4, 8, 2), 0.48, 0.76),
    (Tile(32, 128, 1, 4, 6, 2), 0.53, 0.8),
    (Tile(64, 128, 1, 4, 4, 2), 0.58, 0.95),
    (Tile(128, 128, 1, 8, 5), 0.72, 0.76),
    (Tile(256, 128, 1, 8, 3), 1.17, 1.25),
)
"""Of 4-bit products, with what a step of 128 inputs takes: where a core has one program, and where
it has as many as it has room for. Microseconds."""


def prefers_tiles(rows: int, outputs: int, *, blocks: bool) -> bool:
    """Whether a tiled product in float8 is faster than torch's own."""
    programs = _count(rows, 64) * _count(outputs, 128)
    if blocks:  # torch's waits less for the scales
        return rows <= 64 or (rows <= 128 and programs <= _CORES // 2)
    return rows <= 64 or (rows <= _FEW_ROWS and programs <= _CORES)


def float8_tile(rows: int, outputs: int, inputs: int) -> Tile:
    """For a product with a scale for each row and output."""
    if rows > _FEW_ROWS:
        return Tile(128, 128, 1, 8, 3)
    block = _power(rows, 64)
    programs = _count(rows, block) * _count(outputs, 128)
    if programs > _CORES // 2:  # with more stages, a core would have but one program
        return Tile(block, 128, 1, 8 if block == 64 else 4, 4 if programs > _CORES else 6)
    programs = _count(rows, block) * _count(outputs, 64)
    return Tile(block, 64, max(1, min(2 * _CORES // programs, inputs // 6144)), 4, 6)


def block_tile(rows: int, outputs: int, inputs: int) -> Tile:
    """For a product with scales of blocks of 128 x 128."""
    if rows > 128:
        return Tile(128, 64, 1, 4, 3)
    block = _power(rows, 64)
    splits = _even_splits(_count(rows, block) * _count(outputs, 128))
    return Tile(block, 128, max(1, min(splits, inputs // 1024)), 4, 4)


def integer_tile(rows: int, outputs: int) -> Tile:
    """For a product with weights of 4 bits."""
    block = _power(rows, 128)
    splits = _even_splits(_count(rows, block) * _count(outputs, 128))
    return Tile(block, 128, splits, 8 if block >= 64 else 4, 3)


@lru_cache(maxsize=4096)
def hopper_tile(rows: int, outputs: int, inputs: int) -> Tile:
    """For a product with weights of 4 bits in `integer_hopper.py`: that which should take the least
    time. `inputs`: a multiple of 128."""
    steps, found = inputs // 128, []
    for place, (tile, alone, full) in enumerate(_HOPPER):
        if tile.rows > _power(rows, 256):
            continue
        tiles = _count(rows, tile.rows) * _count(outputs, tile.outputs)
        for splits in range(1, 1 + max(1, min(8, steps // 4))):
            rounds, rest = divmod(tiles * splits, _CORES * tile.per_core)
            each = _count(steps, splits)
            us = rounds * (1 + each * full)
            if rest:
                us += 1 + each * (alone if rest <= _CORES else full)
            if splits > 1:
                parts = 4 + splits * rows * outputs * 3e-6  # written, read and added
                us += parts if tile.per_core == 1 else 0.6 * parts  # another program goes on
            found.append((us, place, splits))
    _, place, splits = min(found)
    return replace(_HOPPER[place][0], splits=splits)


def fitted(tile: Tile, step_bytes: int, device: torch.device) -> Tile:
    """The tile, with no more stages of so many bytes than the device's cores have room for."""
    return replace(tile, num_stages=fitting_stages(tile.num_stages, step_bytes, device))


def fitting_stages(most: int, step_bytes: int, device: torch.device) -> int:
    """Stages of so many bytes that the device's cores have room for, up to `most`; at least one."""
    return max(1, min(most, shared_memory(device) // step_bytes))


def _even_splits(programs: int) -> int:
    if programs > _CORES:
        return 1
    return min(8, 2 * max(1, round(1.1 * _CORES / programs)))


def _count(size: int, block: int) -> int:
    return -(-size // block)


def _power(rows: int, most: int) -> int:
    return min(most, max(16, 1 << (rows - 1).bit_length()))
