"""What rows become before they meet a packed weight: whole numbers up to 127 and a scale a block.

ggml rounds the same way: 32 values to a scale (its Q8_0, Q8_1), 256 for the K types (its Q8_K). The
oracle of the C kernels, and the path without a compiler.
"""

from __future__ import annotations

import torch

__all__ = ["BLOCKS", "is_wide", "round_rows"]

BLOCKS = {2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)}
BLOCKS |= {12: (256, 144), 13: (256, 176), 14: (256, 210)}
"""The types that stay packed, by ggml's number: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K;
values and bytes of a block."""
_LEVELS = 127.0
_TINY = 1e-30
"""A scale whose reciprocal need not be finite: such values become nought."""


def is_wide(kind: int) -> bool:
    """Whether rows have one scale for 256 values rather than for 32."""
    return BLOCKS[kind][0] == 256


def round_rows(x: torch.Tensor, kind: int) -> torch.Tensor:  # [..., num_inputs], float32
    """The values that products with weights of this type see. NaN stays in its block."""
    blocks = x.float().unflatten(-1, (-1, BLOCKS[kind][0]))
    scale = blocks.abs().amax(dim=-1, keepdim=True) / _LEVELS
    inverse = torch.where(scale > _TINY, 1 / scale, torch.zeros_like(scale))
    rounded: torch.Tensor = ((blocks * inverse).round() * scale).flatten(-2)
    return rounded
