"""Linear layers in 8 bits on the CPU, opt-in: one scale per output, one per row of the input.

The weights are rounded once at load, the rows at every call (symmetric, largest value = 127); the
product is exact in 32-bit integers. Half the memory traffic of bfloat16, other numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from batchgen.engine.cpu.linear import LinearFunction, equals_linear
from batchgen.engine.kernels.ops import Operators

__all__ = ["pack_int8"]

_LEVELS = 127.0
_TOLERANCE = 0.05
"""Largest difference from F.linear on normal rows, relative to its largest answer: a broken kernel
is off by more, rounding to 8 bits by less."""


def pack_int8(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """x -> x weight^T + bias in 8 bits, or None where oneDNN cannot or answers wrongly.

    weight: [num_outputs, num_inputs], float32 or bfloat16.
    """
    operators = Operators.load()
    if operators is None or not torch.backends.mkldnn.is_available():
        return None
    try:
        function = _pack(operators, weight, bias)
        return function if equals_linear(function, weight, bias, _TOLERANCE) else None
    except (RuntimeError, AttributeError, NotImplementedError):
        return None


def _pack(operators: Operators, weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction:
    onednn: Any = torch.ops.onednn
    scale = (weight.float().abs().amax(dim=1) / _LEVELS).clamp(min=1e-12)
    rounded = (weight.float() / scale[:, None]).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
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
