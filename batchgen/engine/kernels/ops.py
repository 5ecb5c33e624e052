"""The small C operators as functions on CPU tensors: linear layers, norms, rotations.

Each takes float32 or bfloat16 tensors whose last dimension is dense. `Operators.load()` is None
where the kernels cannot be compiled.
"""

from __future__ import annotations

import ctypes
import functools
from enum import IntEnum
from typing import Any

import torch

from batchgen.engine.kernels.build import load_kernels
from batchgen.engine.kernels.outputs import empty_rows

__all__ = ["Operators", "Weight", "WeightKind"]

_POINTER, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "gemm_pack": [_POINTER] * 2 + [_INT] * 3,
    "amx_pack": [_POINTER] * 2 + [_INT] * 3,
    "bf16_pack": [_POINTER] * 2 + [_INT] * 3,
    "packed_linear": [_POINTER] * 4 + [_INT] * 7,
    "int8_pack": [_POINTER] * 2 + [_INT] * 3,
    "int8_linear": [_POINTER] * 5 + [_INT] * 5,
    "int8_rows": [_POINTER] * 4 + [_INT] * 4,
    "int8_use_tiles": [_INT],
    "run_stack": [_POINTER] * 3,
    "rms_norm": [_POINTER] * 3 + [_INT] * 2 + [_DOUBLE] + [_INT] * 3,
    "silu_mul": [_POINTER] * 2 + [_INT] * 5,
    "rope": [_POINTER] * 4 + [_INT] * 8,
}
_PANELS = ("gemm_panel", "amx_panel", "bf16_panel", "int8_panel")
_NUMBERS = (*_PANELS, "bf16_step", "amx_start", "int8_group")
"""What the library was compiled for: asked once, without arguments."""
_TILE_INPUTS = 32
_MOST_INT8_INPUTS = 1 << 17
"""Of a layer whose rows keep 7 bits at least: see `level_limit` in levels.h."""


class WeightKind(IntEnum):
    """Which kernel packed a weight: see linear.h."""

    FLOAT32 = 0
    TILES = 1
    INT8 = 2
    BLOCKS = 3
    BFLOAT16 = 4


class Weight(ctypes.Structure):
    """`Weight` of kernels/linear.h."""

    _fields_ = (
        *((name, _POINTER) for name in ("data", "scale", "bias")),
        ("kind", _INT),
    )


class Operators:
    """The compiled operators. One instance serves the process."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name in _NUMBERS:
            getattr(library, name).restype = ctypes.c_int64
        self._has_amx = bool(library.amx_start())
        panel = library.amx_panel() if self._has_amx else library.bf16_panel()
        self._bf16_step: int = _TILE_INPUTS if self._has_amx else library.bf16_step()
        self._panels = {torch.float32: library.gemm_panel(), torch.bfloat16: panel}
        self._int8_panel: int = library.int8_panel()
        self.int8_group: int = library.int8_group()
        """Inputs of a row that share a scale and a zero in 8 bits; 0: rows have a scale, and up to
        16 bits."""
        for name in ("int8_panel_bytes", "int8_level_stride"):
            function: Any = getattr(library, name)
            function.restype, function.argtypes = ctypes.c_int64, [_INT]
        self._int8_panel_bytes = library.int8_panel_bytes
        self._level_stride = library.int8_level_stride
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = None, arguments
        pack = library.amx_pack if self._has_amx else library.bf16_pack
        self._packs = {torch.float32: library.gemm_pack, torch.bfloat16: pack}
        self._packed_linear = library.packed_linear
        self.run_stack = library.run_stack
        self._int8_pack, self._int8_rows = library.int8_pack, library.int8_rows
        self._int8_linear, self._int8_use_tiles = library.int8_linear, library.int8_use_tiles
        self.has_int8_tiles = self._has_amx and self.int8_group > 0
        """Whether `use_int8_tiles` makes a difference."""
        self._rms_norm, self._silu_mul = library.rms_norm, library.silu_mul
        self._rope = library.rope

    @staticmethod
    @functools.cache
    def load() -> Operators | None:
        """The operators, or None without compiled kernels."""
        library = load_kernels()
        return None if library is None else Operators(library)

    def can_pack(self, weight: torch.Tensor) -> bool:
        """Whether `pack` and `linear` take this weight: tiles of bfloat16 hold 32 inputs."""
        if weight.dtype == torch.bfloat16:
            return not self._has_amx or weight.shape[1] % _TILE_INPUTS == 0
        return weight.dtype == torch.float32

    def kind_of(self, dtype: torch.dtype) -> WeightKind:
        """What `pack` makes of a weight of this dtype."""
        if dtype == torch.float32:
            return WeightKind.FLOAT32
        return WeightKind.TILES if self._has_amx else WeightKind.BFLOAT16

    def is_fastest(self, dtype: torch.dtype) -> bool:
        """Whether no other library is known to multiply faster on this CPU: in bfloat16 oneDNN
        does where it runs at all and the kernel widens it to float32."""
        onednn: Any = torch.ops.mkldnn
        if dtype == torch.float32 or self._bf16_step > 1:
            return True
        return not (torch.backends.mkldnn.is_available() and onednn._is_mkldnn_bf16_supported())

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """Weight [num_outputs, num_inputs] as panels for `linear`."""
        weight = self._whole(weight.detach()).contiguous()
        num_outputs, num_inputs = weight.shape
        panel = self._panels[weight.dtype]
        panels = -(-num_outputs // panel)
        packed = torch.empty(panels * panel * num_inputs, dtype=weight.dtype)
        self._packs[weight.dtype](
            weight.data_ptr(), packed.data_ptr(), num_outputs, num_inputs, torch.get_num_threads()
        )
        return packed

    def _whole(self, x: torch.Tensor) -> torch.Tensor:
        """With whole pairs of inputs, where bfloat16 is multiplied in pairs."""
        odd = x.dtype == torch.bfloat16 and self._bf16_step == 2 and x.shape[-1] % 2
        return torch.nn.functional.pad(x, (0, 1)) if odd else x

    def linear(
        self,
        x: torch.Tensor,  # [..., num_inputs]
        packed: torch.Tensor,
        num_outputs: int,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:  # [..., num_outputs]
        """x weight^T + bias in the dtype of `packed`; the bias is float32."""
        rows = self._whole(x).contiguous()
        num_inputs = rows.shape[-1]
        out = empty_rows(*rows.shape[:-1], num_outputs, dtype=packed.dtype)
        self._packed_linear(
            rows.data_ptr(),
            packed.data_ptr(),
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            rows.numel() // num_inputs,
            num_inputs,
            num_outputs,
            num_inputs,
            num_outputs,
            self.kind_of(packed.dtype),
            torch.get_num_threads(),
        )
        return out

    def can_pack_int8(self, num_inputs: int) -> bool:
        """Whether `pack_int8` takes a layer of so many inputs on this processor."""
        return bool(self._int8_panel) and num_inputs <= _MOST_INT8_INPUTS

    def use_int8_tiles(self, wanted: bool) -> None:
        """Let matrix tiles have many rows of a layer from here on, or none: the bits are equal."""
        self._int8_use_tiles(wanted)

    def level_stride(self, num_inputs: int) -> int:
        """Numbers of 16 bits that a row takes when it is put in whole numbers."""
        return int(self._level_stride(num_inputs))

    def pack_int8(self, weight: torch.Tensor) -> torch.Tensor:
        """Weight int8 [num_outputs, num_inputs] as panels for `int8_linear` and `int8_rows`."""
        num_outputs, num_inputs = weight.shape
        panels = -(-num_outputs // self._int8_panel)
        size = panels * self._int8_panel_bytes(num_inputs)
        packed = torch.empty(size, dtype=torch.int8)
        weight, threads = weight.contiguous(), torch.get_num_threads()
        self._int8_pack(weight.data_ptr(), packed.data_ptr(), num_outputs, num_inputs, threads)
        return packed

    def int8_linear(self, x: torch.Tensor, weight: Weight, num_outputs: int) -> torch.Tensor:
        """x [..., num_inputs] times the packed weight plus bias, in the dtype of x."""
        rows = x if x.is_contiguous() else x.contiguous()
        num_inputs = rows.shape[-1]
        count = rows.numel() // num_inputs
        levels = torch.empty(count * self.level_stride(num_inputs), dtype=torch.int16)
        scale = torch.empty(count)
        out = empty_rows(*rows.shape[:-1], num_outputs, dtype=rows.dtype)
        self._int8_linear(
            rows.data_ptr(),
            ctypes.addressof(weight),
            levels.data_ptr(),
            scale.data_ptr(),
            out.data_ptr(),
            count,
            num_inputs,
            num_outputs,
            rows.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out

    def int8_rows(
        self, ids: torch.Tensor, weight: Weight, num_inputs: int, dtype: torch.dtype
    ) -> torch.Tensor:
        """The rows `ids` (int64, any shape) of a packed weight: [*ids.shape, num_inputs]."""
        ids = ids.contiguous()
        out = torch.empty(*ids.shape, num_inputs, dtype=dtype)
        is_bf16, threads = dtype == torch.bfloat16, torch.get_num_threads()
        self._int8_rows(
            weight.data, weight.scale, ids.data_ptr(), out.data_ptr(), ids.numel(), num_inputs,
            is_bf16, threads,
        )  # fmt: skip
        return out

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, round_first: bool
    ) -> torch.Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over the last dimension; weight in float32."""
        rows = x if x.is_contiguous() else x.contiguous()
        out = torch.empty_like(rows)
        size = rows.shape[-1]
        self._rms_norm(
            rows.data_ptr(),
            weight.data_ptr(),
            out.data_ptr(),
            rows.numel() // size,
            size,
            eps,
            round_first,
            rows.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """silu(first half) * second half of the last dimension; the input is contiguous."""
        size = gate_up.shape[-1] // 2
        out = torch.empty(*gate_up.shape[:-1], size, dtype=gate_up.dtype)
        self._silu_mul(
            gate_up.data_ptr(),
            out.data_ptr(),
            out.numel() // size,
            size,
            2 * size,
            gate_up.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out

    def rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotate halves of x [1, heads, tokens, size] by angles [1, tokens, size]."""
        _, heads, tokens, size = x.shape
        out = torch.empty(1, tokens, heads, size, dtype=x.dtype)
        self._rope(
            x.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            out.data_ptr(),
            tokens,
            heads,
            size,
            x.stride(2),
            x.stride(1),
            cos.stride(1),
            x.dtype == torch.bfloat16,
            torch.get_num_threads(),
        )
        return out.transpose(1, 2)
