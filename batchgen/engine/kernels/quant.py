"""Products with weights that stay in a GGUF file's blocks: the C functions on tensors."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.outputs import empty_rows

__all__ = ["QuantKernels", "QuantWeight"]

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES = {
    "quant_pack": [_POINTER] * 2 + [_INT] * 4,
    "quant_rows": [_POINTER, _INT, _POINTER, _POINTER] + [_INT] * 4,
    "quant_gemm": [_POINTER] * 5 + [_INT] * 5,
}
_PANEL = 16


class _Part(ctypes.Structure):
    """`QuantPart` of kernels/quant.h."""

    _fields_ = (("panels", _POINTER), ("kind", _INT), ("num_outputs", _INT))


class QuantWeight(ctypes.Structure):
    """`QuantWeight` of kernels/quant.h; it keeps its parts alive."""

    _fields_ = (("num_parts", _INT), ("parts", _POINTER))
    held: tuple[Any, ...]

    @classmethod
    def of(cls, parts: Sequence[tuple[torch.Tensor, int, int]]) -> QuantWeight:
        """Of packed tensors, ggml's number of each one's type, and its outputs."""
        array = (_Part * len(parts))(*(_Part(p.data_ptr(), kind, n) for p, kind, n in parts))
        weight = cls(len(parts), ctypes.addressof(array))
        weight.held = (array, parts)
        return weight


class QuantKernels:
    """The compiled functions. One instance serves the process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in _SIGNATURES.items():
            function: Any = getattr(library, name)
            function.restype, function.argtypes = None, arguments
        for name in ("quant_panel_bytes", "quant_scratch"):
            count: Any = getattr(library, name)
            count.restype, count.argtypes = _INT, [_INT, _INT]
        self._library: Any = library

    @staticmethod
    @functools.cache
    def load() -> QuantKernels | None:
        """The functions, or None without compiled kernels."""
        library = load_kernels()
        return None if library is None else QuantKernels(library)

    def pack(self, rows: np.ndarray[Any, Any], kind: int, num_inputs: int) -> torch.Tensor:
        """Panels of a weight. `rows`: where each output's blocks lie, addresses as uint64."""
        size = self._library.quant_panel_bytes(kind, num_inputs)
        panels = torch.empty(-(-len(rows) // _PANEL) * size, dtype=torch.uint8)
        rows = np.ascontiguousarray(rows, np.uint64)
        self._library.quant_pack(
            rows.ctypes.data,
            panels.data_ptr(),
            kind,
            len(rows),
            num_inputs,
            torch.get_num_threads(),
        )
        return panels

    def rows(
        self, panels: torch.Tensor, kind: int, ids: torch.Tensor, num_inputs: int, dtype: Any
    ) -> torch.Tensor:  # [*ids.shape, num_inputs]
        """Rows of a packed weight as float32 or bfloat16."""
        ids = ids.long().contiguous()
        out = torch.empty(*ids.shape, num_inputs, dtype=dtype)
        self._library.quant_rows(
            panels.data_ptr(),
            kind,
            ids.data_ptr(),
            out.data_ptr(),
            ids.numel(),
            num_inputs,
            dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out

    def scratch_bytes(self, num_rows: int, num_inputs: int) -> int:
        """Memory that a product of so many rows needs beside its answer."""
        size: int = self._library.quant_scratch(num_rows, num_inputs)
        return size

    def multiply(
        self,
        x: torch.Tensor,  # [..., num_inputs], float32 or bfloat16
        weight: QuantWeight,
        num_outputs: int,
        bias: torch.Tensor | None,  # float32
    ) -> torch.Tensor:  # [..., num_outputs]
        """x weight^T + bias, the rows of x in 8 bits."""
        x = x if x.is_contiguous() else x.contiguous()
        num_inputs = x.shape[-1]
        num_rows = x.numel() // num_inputs
        out = empty_rows(*x.shape[:-1], num_outputs, dtype=x.dtype)
        scratch = torch.empty(self.scratch_bytes(num_rows, num_inputs), dtype=torch.uint8)
        self._library.quant_gemm(
            x.data_ptr(),
            ctypes.addressof(weight),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            scratch.data_ptr(),
            num_rows,
            num_inputs,
            num_outputs,
            x.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out
