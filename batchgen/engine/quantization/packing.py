"""How 4-bit codes lie in bytes: two of inputs that are `half` apart in each.

So the lower and the upper four bits of a run of bytes are each a run of inputs.
"""

from __future__ import annotations

import torch

__all__ = ["half_of", "pack_codes", "unpack_codes"]


def half_of(num_inputs: int, group_size: int) -> int | None:
    """The distance that suits groups of this size; None where none does."""
    fits = (h for h in (64, 32, 16) if group_size % h == 0 and num_inputs % (2 * h) == 0)
    return next(fits, None)


def pack_codes(codes: torch.Tensor, half: int) -> torch.Tensor:
    """uint8 [num_outputs, num_inputs] -> uint8 [num_outputs, num_inputs / 2]."""
    runs = codes.unflatten(1, (-1, 2, half))
    both: torch.Tensor = runs[:, :, 0] | runs[:, :, 1] << 4
    return both.flatten(1).contiguous()


def unpack_codes(packed: torch.Tensor, half: int) -> torch.Tensor:
    """The reverse."""
    runs = packed.unflatten(1, (-1, half))
    return torch.stack([runs & 15, runs >> 4], dim=2).flatten(1)
