"""A linear layer in 4 bits: inputs keep the model's dtype, weights are dequantised in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from batchgen.engine.gpu import is_hopper
from batchgen.engine.quantization.integers import Integers
from batchgen.engine.quantization.linear import QuantizedLinear, joined_parameter, kept
from batchgen.engine.quantization.packing import (
    pack_codes,
    pack_steps,
    run_of,
    unpack_codes,
    unpack_steps,
)

__all__ = ["IntegerLinear"]


class IntegerLinear(QuantizedLinear):
    """Inputs of a group lie side by side; where the checkpoint has them elsewhere (GPTQ's
    act-order), x is put in that order first. Raises ValueError for groups that do not allow it."""

    products = ("gluon", "triton")  # the first on Hopper alone

    def __init__(self, weight: Integers, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        outputs, inputs = weight.codes.shape
        super().__init__(inputs, outputs, bias)
        plain, order = weight.in_order()
        run = run_of(inputs, inputs // weight.scales.shape[0])
        if run is None:
            raise ValueError(f"{inputs} inputs in {weight.scales.shape[0]} groups")
        self.run, self.dtype, self.product = run, dtype, self.products[0]
        self.packed = kept(pack_codes(plain.codes, run))
        self.steps = kept(pack_steps(plain.scales, plain.zeros, dtype))
        self.order = None if order is None else kept(order)

    def ways(self) -> tuple[str, ...]:
        """Gluon's where its kernel can be."""
        if not is_hopper(self.packed.device):
            return self.products[1:]
        from batchgen.engine.quantization.integer_kernel import hopper_kernel

        return self.products if hopper_kernel() is not None else self.products[1:]

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x [num_rows, in_features] -> [num_rows, out_features], without the bias."""
        from batchgen.engine.quantization.integer_kernel import multiply_integers

        if self.order is not None:
            x = x.index_select(1, self.order)
        out: torch.Tensor = multiply_integers(
            x, self.packed, self.steps, self.run, self.product == "gluon"
        )
        return out

    def oracle(self, x: torch.Tensor) -> torch.Tensor:
        """The same by the definition, in float32, of weights rounded to x's dtype."""
        return x.float() @ self.dense(x.dtype).float().T

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out_features, in_features], dequantised."""
        codes = unpack_codes(self.packed, self.run)
        weight = Integers(codes, *unpack_steps(self.steps, self.dtype)).dense(dtype)
        return weight if self.order is None else weight[:, self.order.argsort()]

    def alike(self, other: Any) -> bool:
        """Whether the two, given the same input, can be one product."""
        if type(other) is not IntegerLinear or (self.bias is None) != (other.bias is None):
            return False
        if (self.run, self.dtype, self.product) != (other.run, other.dtype, other.product):
            return False
        if self.steps.shape[0] != other.steps.shape[0]:
            return False
        if self.order is None or other.order is None:
            return self.order is other.order
        return torch.equal(self.order, other.order)

    def join(self, others: Sequence[Any]) -> IntegerLinear:
        """One layer with the outputs of this one and the `others`; theirs become views of its."""
        parts = [self, *others]
        layer = IntegerLinear.__new__(IntegerLinear)
        outputs = sum(part.out_features for part in parts)
        QuantizedLinear.__init__(layer, self.in_features, outputs, self.joined_bias(others))
        layer.run, layer.dtype, layer.order = self.run, self.dtype, self.order
        layer.product = self.product
        layer.packed = kept(joined_parameter([part.packed for part in parts]))
        layer.steps = kept(joined_parameter([part.steps for part in parts], 1))
        return layer
