"""x weight^T + bias over packed weights: several, one above the other, are one product."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from batchgen.engine.kernels.ops import Weight, WeightKind
from batchgen.engine.kernels.quant import QuantWeight
from batchgen.engine.packed.weight import PackedWeight

__all__ = ["PackedProduct", "join_products"]


class PackedProduct:
    """A layer's function. Rows are rounded as the type of each weight asks."""

    def __init__(self, weights: Sequence[PackedWeight], bias: torch.Tensor | None) -> None:
        self.weights = tuple(weights)
        self.num_inputs = weights[0].num_inputs
        self.num_outputs = sum(weight.num_outputs for weight in weights)
        self.bias = None if bias is None else bias.detach().float().contiguous()
        kernels = [weight.kernels for weight in weights]
        self.kernels = None if None in kernels else kernels[0]
        self.handle: QuantWeight | None = None
        """For the kernels."""
        if self.kernels is not None:
            parts = [(weight.data, weight.kind, weight.num_outputs) for weight in weights]
            self.handle = QuantWeight.of(parts)

    def __deepcopy__(self, memo: Any) -> PackedProduct:
        """Clones of a module share it."""
        return self

    @property
    def kind(self) -> WeightKind:
        """Which kernel reads it."""
        return WeightKind.BLOCKS

    @property
    def parts(self) -> Weight:
        """As the C kernels take it; this must outlive it."""
        assert self.handle is not None
        bias = None if self.bias is None else self.bias.data_ptr()
        return Weight(ctypes.addressof(self.handle), None, bias, self.kind)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., num_inputs] -> [..., num_outputs], in the dtype of x."""
        if self.kernels is None or self.handle is None or x.dtype == torch.float16:
            return self.plain(x)
        return self.kernels.multiply(x, self.handle, self.num_outputs, self.bias)

    def plain(self, x: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        """The same by PyTorch alone. `exact`: x is not rounded."""
        out = torch.cat([weight.multiply(x, exact=exact) for weight in self.weights], dim=-1)
        return (out if self.bias is None else out + self.bias).to(x.dtype)


def join_products(products: Sequence[PackedProduct]) -> PackedProduct:
    """One product of several with the same inputs: outputs in their order, no weight copied."""
    weights = [weight for product in products for weight in product.weights]
    if all(product.bias is None for product in products):
        return PackedProduct(weights, None)
    biases = [
        torch.zeros(product.num_outputs) if product.bias is None else product.bias
        for product in products
    ]
    return PackedProduct(weights, torch.cat(biases))
