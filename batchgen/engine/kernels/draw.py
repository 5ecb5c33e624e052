"""Draws of a step's rows in C: temperature, top-k, top-p, min-p, and the token at the draw."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

from batchgen.engine.kernels.build import load_kernels

__all__ = ["DrawKernel"]


class DrawKernel:
    """The compiled function. One instance serves the process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._draw: Any = library.draw_rows
        self._draw.restype = ctypes.c_int64
        self._draw.argtypes = [ctypes.c_void_p] * 9 + [ctypes.c_int64] * 3

    @staticmethod
    @functools.cache
    def load() -> DrawKernel | None:
        """The function, or None without compiled kernels."""
        library = load_kernels()
        return None if library is None else DrawKernel(library)

    def __call__(
        self,
        scores: torch.Tensor,  # float32 [.., vocab_size]: overwritten
        drawing: torch.Tensor,  # int64 [num_rows]: the rows of `scores` that draw
        best: torch.Tensor,  # float32 [num_rows]: their largest scores
        temperature: torch.Tensor,  # float32 [num_rows]
        top_k: torch.Tensor,  # int64 [num_rows]; 0: none
        top_p: torch.Tensor,  # float32 [num_rows]; 1: none
        min_p: torch.Tensor,  # float32 [num_rows]; 0: none
        shares: torch.Tensor,  # float64 [num_rows]: the draws, in [0, 1)
    ) -> torch.Tensor:  # int64 [num_rows]
        """The token of each row. All tensors are dense. Raises MemoryError."""
        tokens = torch.empty(len(drawing), dtype=torch.int64)
        given = (scores, drawing, best, temperature, top_k, top_p, min_p.log(), shares, tokens)
        pointers = [tensor.data_ptr() for tensor in given]
        threads = torch.get_num_threads()
        if not self._draw(*pointers, len(drawing), scores.shape[1], threads):
            raise MemoryError("no memory for the draws of a step")
        return tokens
