"""How 4-bit codes lie on a GPU: four in 16 bits, of inputs that are a `run` apart.

So bits 4 j to 4 j + 3 of a run of words are a run of inputs, and tensor cores' own loads of 16-bit
numbers fetch four of them. A group's scale and zero point lie in the 32 bits of one word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["assembly", "pack_codes", "pack_steps", "run_of", "unpack_codes", "unpack_steps"]

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


def assembly(dtype: torch.dtype, runs: Sequence[int]) -> str:
    """PTX that makes a pair of each run's weights, $0 on, of two words and their two steps, the
    last three operands. No conversion: codes in the lowest bits of the offset add themselves."""
    kind, one = ("bf16x2", 0x3F80) if dtype == torch.bfloat16 else ("f16x2", 0x3C00)
    offset = 0x4300 if dtype == torch.bfloat16 else 0x6400  # 128, 1024
    words, low, high = (f"${len(runs) + place}" for place in range(3))
    lines = [
        f"prmt.b32 scale, {low}, {high}, 0x5410;",
        f"prmt.b32 added, {low}, {high}, 0x7632;",
        f"mov.b32 one, {one * 0x10001:#x};",
        "mov.b32 none, 0x80008000;",  # -0: adding it leaves a product as it is
    ]
    for place, run in enumerate(runs):
        found = f"codes{place}"
        lines += [
            f"shr.u32 {found}, {words}, {4 * run};",
            f"lop3.b32 {found}, {found}, 0x000f000f, {offset * 0x10001:#x}, 0xea;",
            f"fma.rn.{kind} {found}, {found}, one, added;",
            f"fma.rn.{kind} ${place}, {found}, scale, none;",
        ]
    names = ", ".join(["scale", "added", "one", "none", *(f"codes{i}" for i in range(len(runs)))])
    return "{ .reg .b32 " + names + ";\n" + "\n".join(lines) + " }"


def _kind(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float16
