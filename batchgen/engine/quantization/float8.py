"""Weights and rows in float8 (e4m3: 4 bits of exponent, 3 of mantissa, up to 448), with scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from batchgen.engine.quantization.scheme import Scheme

__all__ = [
    "E4M3",
    "INPUT_SCALES",
    "WEIGHT_SCALES",
    "Float8",
    "exponents",
    "read_float8",
    "round_blocks",
    "round_rows",
    "round_weight",
]

E4M3 = torch.float8_e4m3fn
_LARGEST = 448.0
_LEAST_SCALE = 1e-12

WEIGHT_SCALES = ("_scale_inv", "_scale")
"""What follows a weight's name: fp8 checkpoints call `inv` what they multiply with too."""
INPUT_SCALES = ("input_scale", "activation_scale")


@dataclass(frozen=True, slots=True)
class Float8:
    """One layer's weight, or a stack of them."""

    values: torch.Tensor  # e4m3 [.., num_outputs, num_inputs]
    scale: torch.Tensor  # float32: [num_outputs], or a number for each block [.., rows, columns]
    block: tuple[int, int] | None = None
    input_scale: torch.Tensor | None = None  # float32 []: fixed, of the layer's inputs

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight, computed in float32 and rounded once."""
        weight = self.values.float()
        if self.block is None:
            return (weight * self.scale[:, None]).to(dtype)
        return (weight * self.spread).to(dtype)

    @property
    def spread(self) -> torch.Tensor:
        """Scales of blocks, one for each number of the weight."""
        assert self.block is not None
        rows, columns = self.values.shape[-2:]
        whole = self.scale.repeat_interleave(self.block[0], dim=-2)
        return whole.repeat_interleave(self.block[1], dim=-1)[..., :rows, :columns]


def read_float8(
    values: torch.Tensor,
    scale: torch.Tensor,
    scheme: Scheme,
    input_scale: torch.Tensor | None,
) -> Float8:
    """From a checkpoint's tensors; a scale for the whole becomes one for each output."""
    scale = exponents(scale) if scale.dtype == torch.uint8 else scale.float()
    fixed = None if input_scale is None else input_scale.float().reshape(-1).amax()
    if scheme.block is not None and scale.ndim == values.ndim and scale.numel() > 1:
        return Float8(values, scale.contiguous(), scheme.block, fixed)
    if values.ndim > 2:  # experts, a scale each
        rows, columns = values.shape[-2:]
        return Float8(values, scale.reshape(-1, 1, 1).contiguous(), (rows, columns), fixed)
    scale = scale.reshape(-1).expand(values.shape[0]).contiguous()
    return Float8(values, scale, None, fixed)


def exponents(scale: torch.Tensor) -> torch.Tensor:
    """Scales float32 of bytes that are their exponents (e8m0), under either type."""
    if scale.dtype == torch.uint8:
        scale = scale.view(torch.float8_e8m0fnu)
    return scale.float()


def round_weight(weight: torch.Tensor) -> Float8:
    """A dense weight [num_outputs, num_inputs] with a scale for each output."""
    values, scale = round_rows(weight)
    return Float8(values, scale[:, 0].contiguous())


def round_blocks(weight: torch.Tensor, block: tuple[int, int]) -> Float8:
    """A dense weight [num_outputs, num_inputs] with a scale for each block of it."""
    rows, columns = weight.shape
    below, beside = -rows % block[0], -columns % block[1]
    whole = torch.nn.functional.pad(weight.float(), (0, beside, 0, below))
    blocks = whole.unflatten(1, (-1, block[1])).unflatten(0, (-1, block[0]))
    scale = (blocks.abs().amax((1, 3)) / _LARGEST).clamp_min(_LEAST_SCALE)
    empty = Float8(weight, scale, block)
    values = (weight.float() / empty.spread).clamp(-_LARGEST, _LARGEST).to(E4M3)
    return Float8(values, scale, block)


def round_rows(
    x: torch.Tensor, fixed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [num_rows, size] in e4m3 and their scales float32 [num_rows, 1]: the largest number of a
    row becomes 448, or the scale is `fixed` and what lies beyond it becomes +-448. NaN stays NaN.
    """
    wide = x.float()
    if fixed is None:
        scale = (wide.abs().amax(-1, keepdim=True) / _LARGEST).clamp_min(_LEAST_SCALE)
    else:
        scale = fixed.reshape(1, 1).expand(x.shape[0], 1).contiguous()
    return (wide / scale).clamp(-_LARGEST, _LARGEST).to(E4M3), scale
