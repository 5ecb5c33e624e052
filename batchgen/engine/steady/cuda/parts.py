"""Puts steady products and norms in the place of a loaded model's, on a GPU.

What is not known stays as it is: `audit` then names it. Layers keep their weights, and tied ones
stay tied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from batchgen.engine.cpu.joined_linear import JoinedDense
from batchgen.engine.cpu.norm import RmsNorm, fast_rms_norm
from batchgen.engine.steady.cuda.library import Layer
from batchgen.engine.steady.cuda.linear import steady_linear
from batchgen.engine.steady.cuda.norm import steady_norm

__all__ = ["make_steady", "steady_layers", "steady_options"]


class SteadyLinear(nn.Linear):
    """An nn.Linear, added up in one order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in_features] -> [..., out_features]."""
        out: torch.Tensor = steady_linear(x, self.weight, self.bias)
        return out


class SteadyJoined(JoinedDense):
    """One of several layers of one input, added up in one order."""

    def _for_all(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = steady_linear(x, self.joined_weight, self.joined_bias)
        return out

    def _alone(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = steady_linear(x, self.weight, self.bias)
        return out


class SteadyNorm(nn.Module):
    """An RMS norm, by our own kernel."""

    def __init__(self, norm: RmsNorm) -> None:
        super().__init__()
        self.register_buffer("scale", norm.weight, persistent=False)
        self.eps, self.round_first = norm.eps, norm.round_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Over the last dimension."""
        out: torch.Tensor = steady_norm(x, self.scale, self.eps, self.round_first)
        return out


def make_steady(module: nn.Module) -> None:
    """In place: plain linear layers, joined ones, and RMS norms that answer as the module's own."""
    for name, part in list(module.named_modules()):
        if type(part) is nn.Linear:
            part.__class__ = SteadyLinear
        elif type(part) is JoinedDense:
            part.__class__ = SteadyJoined
        else:
            _replace_norm(module, name, part)


def steady_layers(module: nn.Module) -> set[Layer]:
    """The linear layers' shapes, joined ones as they are multiplied."""
    parts = list(module.modules())
    plain = {Layer.of(part.weight, part.bias) for part in parts if type(part) is SteadyLinear}
    joined = {
        Layer.of(part.joined_weight, part.joined_bias)
        for part in parts
        if isinstance(part, SteadyJoined) and part.joined_weight is not None
    }
    return plain | joined


def _replace_norm(module: nn.Module, name: str, part: nn.Module) -> None:
    norm: Any = fast_rms_norm(part, steady_norm)
    if norm is not None:
        module.set_submodule(name, SteadyNorm(norm))


def steady_options() -> dict[str, bool]:
    """Of torch's compiler: that it chooses no kernel by timing, which may fall otherwise in a next
    run; and where it can (torch 2.13), none by the number of rows."""
    from torch._inductor import config

    return {name: True for name in ("deterministic", "batch_invariant") if hasattr(config, name)}
