"""A linear layer in float8: rows are rounded as they come, the product has float8 on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchgen.engine.quantization.float8 import Float8, round_rows
from batchgen.engine.quantization.linear import QuantizedLinear, joined_parameter, kept

__all__ = ["RUN", "Float8Linear", "fits_float8"]

RUN = 128
"""Inputs that share a scale where the weight has scales of blocks; outputs of a block, too."""
_ALIGNMENT = 16
"""Of both sizes, as torch's scaled product asks."""


def fits_float8(shape: Sequence[int], block: tuple[int, int] | None) -> bool:
    """Whether a weight [num_outputs, num_inputs] of such blocks can stay in float8."""
    if len(shape) != 2 or shape[0] % _ALIGNMENT or shape[1] % _ALIGNMENT:
        return False
    return block is None or (block == (RUN, RUN) and shape[1] % RUN == 0)


class Float8Linear(QuantizedLinear):
    """With a scale for each output and row, or for blocks of the weight and runs of a row."""

    products = ("scaled_mm", "triton")

    def __init__(self, weight: Float8, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(weight.values.shape[1], weight.values.shape[0], bias)
        self.values = kept(weight.values.contiguous())  # e4m3 [out_features, in_features]
        self.scale = kept(weight.scale)
        self.input_scale = None if weight.input_scale is None else kept(weight.input_scale)
        self.block = weight.block
        self.dtype = dtype
        self.product = self.products[0]

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x [num_rows, in_features] -> [num_rows, out_features], without the bias."""
        return self.multiply_rounded(*self._rounded(x))

    def multiply_rounded(self, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The same of rows in e4m3 and their scales, as `round_rows` makes them."""
        from batchgen.engine.quantization.float8_kernel import multiply_float8

        out: torch.Tensor = multiply_float8(
            rows, scale, self.values, self.scale, self.dtype, self.product == "scaled_mm"
        )
        return out

    def _rounded(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """e4m3 [num_rows, in_features]; float32 scales of rows, or of their runs."""
        runs = x if self.block is None else x.reshape(-1, RUN)
        if self.input_scale is not None or torch.compiler.is_compiling():
            values, scale = round_rows(runs, self.input_scale)
        else:
            from batchgen.engine.quantization.round_kernel import round_rows_on_gpu

            values, scale = round_rows_on_gpu(runs)
        return values.view(x.shape), scale.view(x.shape[0], -1)

    def oracle(self, x: torch.Tensor) -> torch.Tensor:
        """The same by the definition, in float32."""
        runs = x if self.block is None else x.reshape(-1, RUN)
        values, scale = round_rows(runs, self.input_scale)
        return (values.float() * scale).view(x.shape) @ self.dense(torch.float32).T

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out_features, in_features], dequantised."""
        return Float8(self.values, self.scale, self.block).dense(dtype)

    def alike(self, other: Any) -> bool:
        """Whether the two, given the same input, can be one product."""
        if type(other) is not Float8Linear or (self.bias is None) != (other.bias is None):
            return False
        if (self.block, self.dtype, self.product) != (other.block, other.dtype, other.product):
            return False
        if self.block is not None and (self.out_features % RUN or other.out_features % RUN):
            return False
        fixed, theirs = self.input_scale, other.input_scale
        if fixed is None or theirs is None:
            return fixed is theirs
        return bool(fixed == theirs)

    def join(self, others: Sequence[Any]) -> Float8Linear:
        """One layer with the outputs of this one and the `others`; theirs become views of its."""
        parts = [self, *others]
        values = joined_parameter([part.values for part in parts])
        scale = joined_parameter([part.scale for part in parts])
        weight = Float8(values, scale, self.block, self.input_scale)
        layer = Float8Linear(weight, self.joined_bias(others), self.dtype)
        layer.product = self.product
        return layer
