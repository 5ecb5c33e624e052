"""Linear layers in 8 bits on the CPU, opt-in: weights have a scale an output.

They are rounded once at load, the rows at every call; products are exact in 32-bit integers. The
project's own kernel keeps rows in up to 16 bits, or with AVX-512 VNNI in 8 with a scale and a zero
for each 32 inputs (see kernels/levels.h); oneDNN (where neither can be had, or the CPU has AMX) in
8 with a scale a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.cpu.linear import LinearFunction, PackedLinear, equals_linear
from batchgen.engine.kernels.ops import Operators, WeightKind

__all__ = ["Int8Rows", "int8_rows", "pack_int8"]

_LEVELS = 127.0
_TOLERANCE = 0.05
"""Largest difference from F.linear on normal rows, relative to its largest answer: a broken kernel
is off by more, rounding to 8 bits by less."""
_HALF_LEVEL = 0.51
"""Of a level: the most that rounding changes a value, and a little for the arithmetic."""


@dataclass(frozen=True, slots=True)
class Int8Rows:
    """An embedding: rows of a weight that was packed for the project's own product."""

    packed: PackedLinear
    dtype: torch.dtype

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """int64 ids of any shape -> [*ids.shape, num_inputs]."""
        operators = Operators.load()
        assert operators is not None
        return operators.int8_rows(ids, self.packed.parts, self.packed.num_inputs, self.dtype)

    def equals(self, weight: torch.Tensor) -> bool:
        """Whether rows are the weight's but for rounding, looked at from end to end."""
        ids = torch.linspace(0, weight.shape[0] - 1, 64).long()
        assert self.packed.scale is not None
        error = (self(ids).float() - weight[ids].float()).abs()
        slack = weight[ids].float().abs() / 128 if self.dtype == torch.bfloat16 else 0.0
        return bool((error <= self.packed.scale[ids, None] * _HALF_LEVEL + slack).all())


def int8_rows(packed: Any, dtype: torch.dtype) -> Int8Rows | None:
    """Of what `pack_int8` made, if it is for the project's own product: oneDNN's rows, in 8 bits,
    are too coarse for the choice of a token."""
    return Int8Rows(packed, dtype) if isinstance(packed, PackedLinear) else None


def pack_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """x -> x weight^T + bias in 8 bits, or None where no kernel can or it answers wrongly.

    weight: [num_outputs, num_inputs], float32 or bfloat16.
    """
    operators = Operators.load()
    if operators is None:
        return None
    for make in (_own_kernel, _onednn):
        try:
            function = make(operators, weight, bias)
            if function is not None and equals_linear(function, weight, bias, _TOLERANCE):
                return function
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
    return None


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [num_outputs, num_inputs] and float32 [num_outputs]."""
    scale = (weight.float().abs().amax(dim=1) / _LEVELS).clamp(min=1e-12)
    levels = (weight.float() / scale[:, None]).round().clamp(-_LEVELS, _LEVELS)
    return levels.to(torch.int8), scale


def _own_kernel(
    operators: Operators, weight: torch.Tensor, bias: torch.Tensor | None
) -> LinearFunction | None:
    num_outputs, num_inputs = weight.shape
    if not operators.can_pack_int8(num_inputs):
        return None
    levels, scale = _rounded(weight)
    kept = None if bias is None else bias.detach().float().contiguous()
    packed = operators.pack_int8(levels)
    return PackedLinear(packed, num_inputs, num_outputs, kept, WeightKind.INT8, _run, scale)


def _run(x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
    operators = Operators.load()
    assert operators is not None
    return operators.int8_linear(x, layer.parts, layer.num_outputs)


def _onednn(
    operators: Operators, weight: torch.Tensor, bias: torch.Tensor | None
) -> LinearFunction | None:
    if not torch.backends.mkldnn.is_available():
        return None
    onednn: Any = torch.ops.onednn
    rounded, scale = _rounded(weight)
    packed = onednn.qlinear_prepack(rounded.contiguous(), None)
    zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
    multiply, dtype = onednn.qlinear_pointwise, weight.dtype
    kept = None if bias is None else bias.detach().clone()

    def linear(x: torch.Tensor) -> torch.Tensor:
        rows, row_scale = operators.quantize_rows(x.reshape(-1, x.shape[-1]).contiguous())
        out: torch.Tensor = multiply(
            rows, 1.0, 0, packed, scale, zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        out = operators.scale_rows(out, row_scale).view(*x.shape[:-1], -1)
        return out if kept is None else out + kept

    return linear
