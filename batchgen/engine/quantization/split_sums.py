"""Sums whose parts were computed apart on CUDA, added in Triton: always in the same order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import triton
import triton.language as tl

__all__ = ["SplitSums"]

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _add_kernel(
    parts: tl.tensor,  # float32 [NUM_PARTS, size]
    out: tl.tensor,  # [size]
    size: tl.tensor,
    NUM_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A run of numbers a program."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    total = tl.load(parts + at, inside, other=0.0)
    for part in tl.static_range(1, NUM_PARTS):
        total += tl.load(parts + part * size.to(tl.int64) + at, inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), inside)


def _add_parts(parts: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float32 [num_parts, num_rows, num_outputs] -> [num_rows, num_outputs]."""
    count, rows, outputs = parts.shape
    out = torch.empty(rows, outputs, dtype=dtype, device=parts.device)
    grid = (triton.cdiv(out.numel(), _BLOCK),)
    _add_kernel[grid](parts, out, out.numel(), count, _BLOCK, num_warps=4)
    return out


@dataclass(frozen=True, slots=True)
class SplitSums:
    """What the programs of a product write, whose inputs are split among some."""

    parts: torch.Tensor  # [num_splits, num_rows, num_outputs]: float32 where there are several
    steps: int
    """Of the inputs, in a split: the last may have fewer."""
    dtype: torch.dtype

    @classmethod
    def empty(
        cls, rows: int, outputs: int, steps: int, splits: int, x: torch.Tensor, dtype: torch.dtype
    ) -> Self:
        """For `steps` steps in at most so many splits, none of them empty, where `x` lies."""
        each = triton.cdiv(steps, splits)
        count = triton.cdiv(steps, each)
        kept = dtype if count == 1 else torch.float32
        return cls(torch.empty(count, rows, outputs, dtype=kept, device=x.device), each, dtype)

    def total(self) -> torch.Tensor:
        """[num_rows, num_outputs]."""
        return self.parts[0] if len(self.parts) == 1 else _add_parts(self.parts, self.dtype)
