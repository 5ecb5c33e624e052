"""Linear layers on the CPU: weights packed once at load, siblings of one input joined.

float32 goes to the project's own kernel where it was compiled, and bfloat16 where the CPU
multiplies it (AMX, AVX-512 BF16) or oneDNN cannot; else to oneDNN's packed weights. Each
replacement is compared with `F.linear` before it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from batchgen.engine.kernels.ops import Operators, Weight, WeightKind

__all__ = [
    "JoinedLinear",
    "JoinedMember",
    "LinearFunction",
    "PackedLinear",
    "equals_linear",
    "pack_steady",
    "pack_weight",
]

LinearFunction = Callable[[torch.Tensor], torch.Tensor]
"""x [..., num_inputs] -> [..., num_outputs]."""

_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2}
"""Largest difference from F.linear, relative to the largest value of its answer."""
_PROBE_ROWS = (1, 5)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A layer computed by the project's own kernel."""

    weight: torch.Tensor
    """As `Operators.pack` or `pack_int8` laid it out."""
    num_inputs: int
    num_outputs: int
    bias: torch.Tensor | None  # float32 [num_outputs]
    kind: WeightKind
    run: Callable[[torch.Tensor, PackedLinear], torch.Tensor]
    scale: torch.Tensor | None = None  # float32 [num_outputs], of INT8

    @property
    def parts(self) -> Weight:
        """As the C kernels take it; the tensors must outlive it."""
        return Weight(
            self.weight.data_ptr(),
            None if self.scale is None else self.scale.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            self.kind,
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., num_inputs] -> [..., num_outputs]."""
        return self.run(x, self)


@dataclass(frozen=True, slots=True)
class JoinedMember:
    """One of the layers of a `JoinedLinear`."""

    joined: JoinedLinear
    index: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The output of this layer."""
        return self.joined.take(x, self.index)


class JoinedLinear:
    """Several layers with one input as one product: the first caller computes, the others take.

    The outputs wait for the very tensor they were made from; another input is computed anew.
    """

    def __init__(self, function: LinearFunction, sizes: Sequence[int]) -> None:
        self.function = function
        self.sizes = list(sizes)
        self._input: torch.Tensor | None = None
        self._outputs: list[torch.Tensor | None] = []

    def take(self, x: torch.Tensor, member: int) -> torch.Tensor:
        """The output of one member layer for input x [..., num_inputs]."""
        if self._input is not x or self._outputs[member] is None:
            self._input = x
            self._outputs = list(self.function(x).split(self.sizes, dim=-1))
        out = self._outputs[member]
        assert out is not None
        self._outputs[member] = None
        if member == len(self.sizes) - 1:
            self._input = None
        return out


def pack_weight(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """The fastest function that equals F.linear here, or None when only F.linear does.

    weight: [num_outputs, num_inputs], float32 or bfloat16, on the CPU.
    """
    operators = Operators.load()
    own = operators is not None and operators.is_fastest(weight.dtype)
    makers = (_own_kernel, _onednn) if own else (_onednn, _own_kernel)
    found = (_equal(make, weight, bias) for make in makers)
    return next((function for function in found if function is not None), None)


def pack_steady(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    """As `pack_weight`, by a kernel that sums in one order whatever the number of rows."""
    return _equal(_own_kernel, weight, bias)


def _equal(
    make: Callable[[torch.Tensor, torch.Tensor | None], LinearFunction | None],
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> LinearFunction | None:
    try:
        function = make(weight, bias)
        return function if function and equals_linear(function, weight, bias) else None
    except (RuntimeError, AttributeError, NotImplementedError):
        return None


def equals_linear(
    function: LinearFunction,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tolerance: float | None = None,
) -> bool:
    """Whether the function answers as F.linear does on random rows."""
    bound = _TOLERANCE[weight.dtype] if tolerance is None else tolerance
    generator = torch.Generator().manual_seed(0)
    for rows in _PROBE_ROWS:
        x = torch.randn(1, rows, weight.shape[1], generator=generator).to(weight.dtype)
        expected = F.linear(x, weight, bias).float()
        difference = (function(x).float() - expected).abs().max()
        if not difference <= bound * expected.abs().max():
            return False
    return True


def _own_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    operators = Operators.load()
    if operators is None or not operators.can_pack(weight):
        return None
    num_outputs, num_inputs = weight.shape
    kept = None if bias is None else bias.detach().float().contiguous()
    packed, kind = operators.pack(weight), operators.kind_of(weight.dtype)
    return PackedLinear(packed, num_inputs, num_outputs, kept, kind, _run)


def _run(x: torch.Tensor, layer: PackedLinear) -> torch.Tensor:
    operators = Operators.load()
    assert operators is not None
    return operators.linear(x, layer.weight, layer.num_outputs, layer.bias)


def _onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> LinearFunction | None:
    if not torch.backends.mkldnn.is_available():
        return None
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.detach().contiguous(), None)
    run = operators._linear_pointwise
    kept = None if bias is None else bias.detach().clone()
    return lambda x: run(x, packed, kept, "none", [], "")
