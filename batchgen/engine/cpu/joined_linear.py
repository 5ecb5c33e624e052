"""Linear layers that get the very same tensor become one matrix product (q, k, v; gate, up).

Which layers do is seen in a tiny forward, not known by name, and checked again at every call: a
member that gets another tensor than its siblings computes its own part. Weights keep their modules,
as views of the joined one, so nothing is stored twice and the model's code stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from batchgen.engine.cpu.linear_calls import is_plain, record_calls, siblings
from batchgen.engine.quantization.linear import QuantizedLinear

__all__ = ["JoinedDense", "JoinedQuantized", "join_linears"]


class _Shared:
    """What the first member computed, until the last one has taken its part."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.input: torch.Tensor | None = None
        self.outputs: tuple[torch.Tensor, ...] = ()


class _Member(nn.Module):
    """Stands where a layer stood. The first of a group computes for all of it."""

    def __init__(self, layer: Any, shared: _Shared, index: int) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._shared = shared
        self._index = index
        self._last = index == len(shared.sizes) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        shared = self._shared
        if self._index == 0:
            shared.outputs = self._for_all(x).split(shared.sizes, dim=-1)
            shared.input = x
            return shared.outputs[0]
        if shared.input is not x:
            return self._alone(x)
        output = shared.outputs[self._index]
        if self._last:
            shared.input, shared.outputs = None, ()
        return output

    def _for_all(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class JoinedDense(_Member):
    """Stands where an nn.Linear stood. The first member owns the joined weight."""

    def __init__(self, linear: nn.Linear, shared: _Shared, index: int) -> None:
        super().__init__(linear, shared, index)
        self.weight, self.bias = linear.weight, linear.bias
        self.joined_weight: nn.Parameter | None = None
        self.joined_bias: nn.Parameter | None = None

    def _for_all(self, x: torch.Tensor) -> torch.Tensor:
        assert self.joined_weight is not None
        return F.linear(x, self.joined_weight, self.joined_bias)

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class JoinedQuantized(_Member):
    """Stands where a quantised layer stood. The first member owns the joined layer."""

    def __init__(self, layer: QuantizedLinear, shared: _Shared, index: int) -> None:
        super().__init__(layer, shared, index)
        self.alone = layer  # what it holds are views of the joined layer's
        self.joined: QuantizedLinear | None = None

    def _for_all(self, x: torch.Tensor) -> torch.Tensor:
        assert self.joined is not None
        output: torch.Tensor = self.joined(x)
        return output

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.alone(x)
        return output


def join_linears(module: nn.Module, run: Callable[[], object]) -> int:
    """Join what can be joined; `run` is a tiny forward of the module. Returns the joined groups."""
    calls = record_calls(module, run, _joinable)
    groups = siblings(calls, _alike)
    for group in groups:
        join = _join_quantized if isinstance(group[0].module, QuantizedLinear) else _join
        join(module, [call.name for call in group])
    return len(groups)


def _joinable(module: nn.Module) -> bool:
    if isinstance(module, QuantizedLinear):
        return not (module._forward_hooks or module._forward_pre_hooks)
    return type(module) is nn.Linear and is_plain(module)


def _alike(first: Any, other: Any) -> bool:
    if isinstance(first, QuantizedLinear):
        return first.alike(other)
    if isinstance(other, QuantizedLinear):
        return False
    same_dtype: bool = first.weight.dtype == other.weight.dtype
    return same_dtype and (first.bias is None) == (other.bias is None)


def _join(module: nn.Module, names: Sequence[str]) -> None:
    linears: list[Any] = [module.get_submodule(name) for name in names]
    sizes = [linear.out_features for linear in linears]
    weight = _joined([linear.weight for linear in linears])
    bias = None if linears[0].bias is None else _joined([linear.bias for linear in linears])
    shared = _Shared(sizes)
    for index, (name, linear) in enumerate(zip(names, linears, strict=True)):
        member = JoinedDense(linear, shared, index)
        if index == 0:
            member.joined_weight, member.joined_bias = weight, bias
        module.set_submodule(name, member)


def _join_quantized(module: nn.Module, names: Sequence[str]) -> None:
    layers: list[Any] = [module.get_submodule(name) for name in names]
    shared = _Shared([layer.out_features for layer in layers])
    joined = layers[0].join(layers[1:]).eval()
    for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
        member = JoinedQuantized(layer, shared, index)
        if index == 0:
            member.joined = joined
        module.set_submodule(name, member)


def _joined(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """The parameters end to end; each becomes a view of its part."""
    joined = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, joined.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return nn.Parameter(joined, requires_grad=False)
