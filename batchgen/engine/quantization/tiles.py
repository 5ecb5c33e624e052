"""How a product of a few rows with quantised weights is cut among a GPU's cores."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tile", "float8_tile", "integer_tile", "prefers_tiles"]


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


_PROGRAMS = 264
"""Of a Hopper GPU at once, two on each of its cores: while one waits, the other multiplies."""
_FEW_ROWS = 256
"""Up to here a product's time is that of reading its weight."""


def prefers_tiles(rows: int, outputs: int, inputs: int) -> bool:
    """Whether a tiled product in float8 is faster than torch's own."""
    return rows <= _FEW_ROWS


def float8_tile(rows: int, outputs: int, inputs: int, *, blocks: bool) -> Tile:
    """For a product of so many rows; `blocks`: with scales of blocks."""
    block = _power(rows, 128)
    splits = _splits(rows, outputs, inputs // 128, block, 128)
    return Tile(block, 128, splits, 8 if block == 128 else 4, 4)


def integer_tile(rows: int, outputs: int, words: int) -> Tile:
    """`words`: of 16 bits, for an output."""
    block = _power(rows, 128)
    splits = _splits(rows, outputs, words // 32, block, 128)
    return Tile(block, 128, splits, 8 if block == 128 else 4, 3)


def _splits(rows: int, outputs: int, steps: int, block: int, width: int) -> int:
    tiles = -(-rows // block) * -(-outputs // width)
    return max(1, min(8, _PROGRAMS // tiles, steps // 4))


def _power(rows: int, most: int) -> int:
    return min(most, max(16, 1 << (rows - 1).bit_length()))
