"""What the C kernel of a stack of layers is given: its structures, and memory for a step's rows."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch

__all__ = ["Buffers", "Pass", "Stack"]


class Stack(ctypes.Structure):
    """`Stack` of kernels/stack.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_blocks", "hidden", "intermediate")),
        *((name, ctypes.c_void_p) for name in ("blocks", "layers")),
    )


class Pass(ctypes.Structure):
    """`Pass` of kernels/stack.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "normed", "qkv", "attended", "gate_up")),
        *((name, ctypes.c_void_p) for name in ("active", "cos", "sin", "partial")),
        *((name, ctypes.c_void_p) for name in ("levels", "level_scale", "blocks")),
        ("angle_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ends", "end_tokens")),
    )


@dataclass(slots=True)
class Buffers:
    """Space for the rows of a step, grown when a step is larger than any before."""

    widths: tuple[int, ...]  # of normed, qkv, attended, gate_up, active
    dtype: torch.dtype
    level_stride: int  # of a row in whole numbers
    num_rows: int = 0
    tensors: tuple[torch.Tensor, ...] = ()
    levels: tuple[torch.Tensor, ...] = ()
    """Of rows in whole numbers, and their scales."""

    def pointers(self, num_rows: int) -> list[int]:
        """Where each buffer lies, all with room for so many rows."""
        self._grow(num_rows)
        return [tensor.data_ptr() for tensor in self.tensors]

    def level_pointers(self, num_rows: int) -> list[int]:
        """Where rows in whole numbers have room, and their scales."""
        self._grow(num_rows)
        return [tensor.data_ptr() for tensor in self.levels]

    def _grow(self, num_rows: int) -> None:
        if num_rows <= self.num_rows:
            return
        self.num_rows = num_rows
        self.tensors = tuple(
            torch.empty(num_rows * width, dtype=self.dtype) for width in self.widths
        )
        levels = torch.empty(num_rows * self.level_stride, dtype=torch.int16)
        self.levels = (levels, torch.empty(num_rows))
