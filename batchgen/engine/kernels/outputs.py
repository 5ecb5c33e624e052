"""Where the C functions write what a layer answers."""

from __future__ import annotations

import math

import torch

__all__ = ["empty_rows"]

_SMALL, _LARGE = 1 << 20, 32 << 20
"""Bytes: below, a hole is soon found again; above, the C library asks the system each time."""
_FEWEST_ROWS = 64


def empty_rows(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Like `torch.empty`. Large answers lie at the start of room for a power of two of rows, of
    which the system gives what is touched.

    While a job begins, each step has logits of some more rows than the one before. They fit into
    none of the holes that earlier ones left between what stays, and the heap grew by every one.
    """
    rows, width = math.prod(shape[:-1]), shape[-1]
    if not _SMALL <= rows * width * dtype.itemsize <= _LARGE:
        return torch.empty(*shape, dtype=dtype)
    room = max(_FEWEST_ROWS, 1 << (rows - 1).bit_length())
    return torch.empty(room, width, dtype=dtype)[:rows].view(shape)
