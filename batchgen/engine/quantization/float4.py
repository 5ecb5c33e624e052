"""Weights in 4 bits of floating point (e2m1), two a byte, the lower half first: NVFP4 and MXFP4.

A run of inputs of one output shares a scale: of 16 in e4m3, under one more for the whole weight
(NVFP4), or of 32 as a power of two (MXFP4, the OCP's Microscaling specification).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from batchgen.engine.quantization.float8 import exponents

__all__ = ["FLOAT4_PARTS", "Float4", "numbers_of", "read_float4"]

_SIZES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

FLOAT4_PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "nvfp4": {
        "weight_packed": ("U8",),
        "weight_scale": ("F8_E4M3",),
        "weight_global_scale": ("F32",),
    },
    "modelopt": {"weight": ("U8",), "weight_scale": ("F8_E4M3",), "weight_scale_2": ("F32",)},
    "mxfp4": {"weight_packed": ("U8",), "weight_scale": ("U8", "F8_E8M0")},
    "quark": {"weight": ("U8",), "weight_scale": ("U8", "F8_E8M0")},
}
"""Packing -> a layer's tensors, all needed, that of the codes first, and their types."""


@dataclass(frozen=True, slots=True)
class Float4:
    """One layer's weight."""

    codes: torch.Tensor  # uint8 [num_outputs, num_inputs / 2]
    scales: torch.Tensor  # float32 [num_outputs, num_groups]

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, computed in float32 and rounded once."""
        numbers = numbers_of(self.codes).unflatten(1, (self.scales.shape[1], -1))
        weight: torch.Tensor = (numbers * self.scales[..., None]).flatten(1)
        return weight.to(dtype)


def numbers_of(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [.., n] -> float32 [.., 2 * n], the numbers without their scales."""
    sizes = torch.tensor([*_SIZES, *(-size for size in _SIZES)], device=codes.device)
    return sizes[torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2).int()]


def read_float4(parts: Mapping[str, torch.Tensor], packing: str) -> Float4:
    """From a checkpoint's tensors. compressed-tensors divides by the scale of the whole, ModelOpt
    multiplies."""
    codes = parts[next(iter(FLOAT4_PARTS[packing]))]
    scales = parts["weight_scale"]
    if packing in ("mxfp4", "quark"):
        return Float4(codes, exponents(scales))
    if packing == "nvfp4":
        return Float4(codes, scales.float() / parts["weight_global_scale"].reshape(()))
    return Float4(codes, scales.float() * parts["weight_scale_2"].reshape(()))
