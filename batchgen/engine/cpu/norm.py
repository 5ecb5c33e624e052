"""RMS norms on the CPU in one pass, each proven equal to the module it stands in for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.kernels.ops import Operators

__all__ = ["RmsNorm", "fast_rms_norm"]

_EPS_NAMES = ("variance_epsilon", "eps")
_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 0.0, torch.float16: 0.0}
_SCALES = (1e-3, 1.0, 30.0)
"""Sizes of the values that are tried: the smallest makes eps count."""


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight in one pass; other dtypes go to the module's own."""

    weight: torch.Tensor  # float32 [size]
    eps: float
    round_first: bool
    """Round to the output's precision before multiplying by the weight."""
    dtype: torch.dtype
    run: Callable[..., torch.Tensor]
    original: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Over the last dimension."""
        if hidden_states.dtype != self.dtype:
            return self.original(hidden_states)
        return self.run(hidden_states, self.weight, self.eps, self.round_first)


def fast_rms_norm(
    module: nn.Module, run: Callable[..., torch.Tensor] | None = None
) -> RmsNorm | None:
    """A function equal to an RMSNorm module's forward, or None when the module is something else.

    `run`: what computes it, as `Operators.rms_norm` does, which is what does it otherwise.
    Llama's kind (weight) and Gemma's (1 + weight, rounded last) are tried; numbers decide.
    """
    weight, eps = getattr(module, "weight", None), _eps(module)
    operators = Operators.load() if run is None else None
    if operators is not None:
        run = operators.rms_norm
    if run is None or eps is None or not isinstance(weight, torch.Tensor):
        return None
    if "RMSNorm" not in type(module).__name__ or weight.dim() != 1 or not len(weight):
        return None
    if weight.dtype not in _TOLERANCE or len(list(module.parameters())) != 1:
        return None
    original: Any = module.forward
    for offset in (0.0, 1.0):
        for round_first in (True, False):
            function = RmsNorm(
                weight.float() + offset,
                eps,
                round_first,
                weight.dtype,
                run,
                original,
            )
            if _equal(module, function, weight):
                return function
    return None


def _eps(module: nn.Module) -> float | None:
    for name in _EPS_NAMES:
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return None


def _equal(
    module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], weight: torch.Tensor
) -> bool:
    """bfloat16 must agree but for single roundings, float32 to its last bits."""
    generator = torch.Generator().manual_seed(0)
    for scale in _SCALES:
        x = torch.randn(1, 5, weight.shape[0], generator=generator).mul_(scale).to(weight)
        expected, got = module(x), function(x)
        if got.dtype != expected.dtype:
            return False
        difference = (got.float() - expected.float()).abs()
        if weight.dtype != torch.float32:
            if (difference != 0).float().mean() > 0.01 or difference.max() > 0.02 * got.abs().max():
                return False
        elif not difference.max() <= _TOLERANCE[weight.dtype] * expected.abs().max():
            return False
    return True
