"""What stands where an nn.Linear stood whose weight stays in fewer bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["QuantizedLinear", "dense_linear", "joined_parameter", "kept"]


class QuantizedLinear(nn.Module):
    """x weight^T + bias. Everything it holds is a parameter, so that copies of a model share it."""

    bias: nn.Parameter | None
    products: Sequence[str] = ()
    """Names of the ways that may compute the product, the best first; a proof decides."""
    product: str = ""
    """The way that is taken: equal for all layers, or the compiler would tell them apart."""

    def __init__(self, in_features: int, out_features: int, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bias = None if bias is None else kept(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        return self.finish(self.multiply(x.reshape(-1, self.in_features)), x.shape[:-1])

    def finish(self, out: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """A product [num_rows, out_features] with the bias, as [*shape, out_features]."""
        if self.bias is not None:
            out = out + self.bias
        return out.view(*shape, self.out_features)

    def ways(self) -> tuple[str, ...]:
        """Those of the `products` that there are where the layer lies."""
        return tuple(self.products)

    def multiply(self, x: torch.Tensor) -> torch.Tensor:
        """x [num_rows, in_features] -> [num_rows, out_features], without the bias."""
        raise NotImplementedError

    def oracle(self, x: torch.Tensor) -> torch.Tensor:
        """The same by the definition, in float32."""
        raise NotImplementedError

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight [out_features, in_features], dequantised."""
        raise NotImplementedError

    def alike(self, other: Any) -> bool:
        """Whether the two, given the same input, can be one product."""
        raise NotImplementedError

    def join(self, others: Sequence[Any]) -> QuantizedLinear:
        """One layer with the outputs of this one and the `others`; theirs become views of its."""
        raise NotImplementedError

    @property
    def num_weights(self) -> int:
        """Numbers that the packed ones stand for."""
        return self.in_features * self.out_features

    def joined_bias(self, others: Sequence[Any]) -> torch.Tensor | None:
        """The biases end to end."""
        if self.bias is None:
            return None
        return torch.cat([self.bias, *(other.bias for other in others)])

    def extra_repr(self) -> str:
        """As nn.Linear's."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def dense_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    """An ordinary layer of a weight [out_features, in_features]."""
    outputs, inputs = weight.shape
    layer = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    layer.weight = kept(weight)
    if bias is not None:
        layer.bias = kept(bias)
    return layer


def kept(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter that is not trained."""
    return nn.Parameter(tensor.detach(), requires_grad=False)


def joined_parameter(parameters: Sequence[nn.Parameter], dim: int = 0) -> torch.Tensor:
    """The parameters end to end along `dim`; each becomes a view of its part."""
    joined = torch.cat([parameter.data for parameter in parameters], dim)
    sizes = [parameter.shape[dim] for parameter in parameters]
    for parameter, part in zip(parameters, joined.split(sizes, dim), strict=True):
        parameter.data = part
    return joined
