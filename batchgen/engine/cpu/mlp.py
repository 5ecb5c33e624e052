"""Gated MLPs on the CPU: gate and up as one product, silu(gate) * up in one pass.

Recognised by the names of their parts, kept only when their numbers equal the module's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.cpu.linear import LinearFunction
from batchgen.engine.cpu.linear_calls import is_layer, is_packed
from batchgen.engine.kernels.ops import Operators

__all__ = ["GatedMlp", "fast_gated_mlp"]

_PARTS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("gate_up_proj",), "down_proj"),
    (("w1", "w3"), "w2"),
)
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
_PROBE_ROWS = 6

Pack = Callable[[list[nn.Linear]], LinearFunction | None]
"""Packs the joined rows of some layers."""


@dataclass(frozen=True, slots=True)
class GatedMlp:
    """down(silu(gate(x)) * up(x))."""

    gate_up: LinearFunction
    """Gates first."""
    down: LinearFunction
    silu_mul: LinearFunction

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        return self.down(self.silu_mul(self.gate_up(x)))


def fast_gated_mlp(
    module: nn.Module, pack: Pack, exact: bool
) -> tuple[LinearFunction, list[nn.Linear]] | None:
    """A function equal to the module's forward and the layers it holds, or None. Unless `exact`,
    the layers' own products are what is compared: what `pack` rounds is its own to check."""
    operators = Operators.load()
    parts = _parts(module)
    if operators is None or parts is None:
        return None
    gates, down = parts
    if not _equal(module, GatedMlp(lambda x: _together(gates, x), down, operators.silu_mul)):
        return None
    joined, last = pack(gates), pack([down])
    if joined is None or last is None:
        return None
    forward = GatedMlp(joined, last, operators.silu_mul)
    exact = exact and not any(is_packed(part) for part in (*gates, down))
    return None if exact and not _equal(module, forward) else (forward, [*gates, down])


def _together(layers: list[nn.Linear], x: torch.Tensor) -> torch.Tensor:
    return torch.cat([layer(x) for layer in layers], dim=-1)


def _parts(module: nn.Module) -> tuple[list[nn.Linear], nn.Linear] | None:
    children = dict(module.named_children())
    for gate_names, down_name in _PARTS:
        names = {*gate_names, down_name}
        if not names <= children.keys() or len(children) > len(names) + 1:
            continue
        gates = [children[name] for name in gate_names]
        down = children[down_name]
        if all(type(part) is not Conv1D and is_layer(part) for part in (*gates, down)):
            return gates, down  # type: ignore[return-value]
    return None


def _equal(module: nn.Module, forward: LinearFunction) -> bool:
    first: Any = next(layer for layer in module.modules() if is_layer(layer))
    size, dtype = first.in_features, first.weight.dtype
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, _PROBE_ROWS, size, generator=generator).to(dtype)
    try:
        expected = module(x)
    except (TypeError, RuntimeError):
        return False
    if not isinstance(expected, torch.Tensor):
        return False
    got = forward(x)
    if got.shape != expected.shape:
        return False
    bound = _TOLERANCE[dtype] * expected.abs().max().float()
    return bool((got.float() - expected.float()).abs().max() <= bound)
