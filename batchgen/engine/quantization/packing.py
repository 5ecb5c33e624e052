"""How 4-bit codes lie on a GPU: four in 16 bits, of inputs that are a `run` apart.

So bits 4 j to 4 j + 3 of a run of words are a run of inputs, and tensor cores' own loads of 16-bit
numbers fetch four of them. A group's scale and zero point lie in the 32 bits of one word.
"""

from __future__ import annotations

import torch

__all__ = ["pack_codes", "pack_steps", "run_of", "unpack_codes", "unpack_steps"]

_OFFSET = {torch.bfloat16: 128, torch.float16: 1024}
"""Where a step of the numbers is 1: bits of a code that replace the lowest there add the code."""


def run_of(num_inputs: int, group_size: int) -> int | None:
    """The distance that suits groups of this size; None where none does."""
    fits = (run for run in (32, 16) if group_size % run == 0 and num_inputs % (4 * run) == 0)
    return next(fits, None)


def pack_codes(codes: torch.Tensor, run: int) -> torch.Tensor:
    """uint8 [num_outputs, num_inputs] -> int16 [num_outputs, num_inputs / 4]."""
    runs = codes.unflatten(1, (-1, 4, run)).to(torch.int32)
    words: torch.Tensor = runs[:, :, 0]
    for place in range(1, 4):
        words = words | runs[:, :, place] << (4 * place)
    return words.to(torch.int16).flatten(1).contiguous()


def unpack_codes(packed: torch.Tensor, run: int) -> torch.Tensor:
    """The reverse."""
    runs = packed.unflatten(1, (-1, run))
    return torch.stack([runs >> (4 * place) & 15 for place in range(4)], 2).flatten(1).byte()


def pack_steps(scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """int32 [num_groups, num_outputs]: the scale, as the model's dtype has it, in the lower half,
    what is added to a code and its offset in the upper."""
    kind = _kind(dtype)
    added = -(zeros.float() + _OFFSET[kind])  # exact
    both: torch.Tensor = torch.stack([scales.to(kind), added.to(kind)], -1).view(torch.int32)
    return both[..., 0]


def unpack_steps(
    steps: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:  # scales, zeros
    """The reverse."""
    kind = _kind(dtype)
    both = steps.contiguous()[..., None].view(kind)
    return both[..., 0], (-both[..., 1].float() - _OFFSET[kind]).byte()


def _kind(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
