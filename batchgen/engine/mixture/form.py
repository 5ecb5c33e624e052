"""What an MoE module computes: its sizes, the layout of its weights, and its gated activation.

Recognised by its structure, not by its class: two parameters of three dimensions hold the weights
of all experts, and the activation between the two products is identified by its output on a few
probe values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = [
    "GELU",
    "GELU_TANH",
    "QUIET",
    "SILU",
    "Gate",
    "Sizes",
    "find_gate",
    "quieten",
    "sizes_of",
]

SILU, GELU, GELU_TANH = 0, 1, 2
"""`Gate.function`: x sigmoid(alpha x), or one of the two forms of GELU."""
QUIET = 1 / 64
"""By so much are random experts' last weights smaller than others. Random routers are full of near
ties; where experts are louder than what goes past them, as gpt-oss's random ones are, one rounding
changes every logit (by 60% after 24 layers, instead of 5%), and no proof can tell it from a fault.
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """The gated activation `(up + shift) * f(gate)`. With a limit, up is clamped to [-limit, limit]
    and gate to at most limit first."""

    function: int
    alpha: float = 1.0
    limit: float | None = None
    shift: float = 0.0
    interleaved: bool = False
    """Gates and ups alternate along the outputs; else all gates come before all ups."""

    @property
    def in_halves(self) -> Gate:
        """The same over gates that come before ups."""
        return replace(self, interleaved=False)

    @property
    def text(self) -> str:
        """All of it as text, for `read`: torch.compile takes a string as a constant, but numbers as
        inputs that may change."""
        limit = "" if self.limit is None else self.limit
        return f"{self.function},{self.alpha},{limit},{self.shift}"

    @staticmethod
    @cache
    def read(text: str) -> Gate:
        """From `text`."""
        function, alpha, limit, shift = text.split(",")
        return Gate(int(function), float(alpha), float(limit) if limit else None, float(shift))

    def split(self, gate_up: torch.Tensor, dim: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
        """Gates and ups of what lies along `dim`."""
        if self.interleaved:
            pairs = gate_up.unflatten(dim, (-1, 2))
            at = dim if dim < 0 else dim + 1
            return pairs.select(at, 0), pairs.select(at, 1)
        gate, up = gate_up.chunk(2, dim=dim)
        return gate, up

    def apply(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[..., 2 * width] -> [..., width], by the definition."""
        gate, up = self.split(gate_up)
        if self.limit is not None:
            gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        if self.function == SILU:
            gate = gate * torch.sigmoid(self.alpha * gate)
        else:
            gate = F.gelu(gate, approximate="tanh" if self.function == GELU_TANH else "none")
        return (up + self.shift) * gate


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a layer of experts."""

    num_experts: int
    hidden: int
    width: int
    """The intermediate size, between the two products."""
    transposed: bool
    """Weights lie as [inputs, outputs]."""


def sizes_of(module: Any) -> Sizes | None:
    """None: the module does not hold two stacks of experts' weights that fit each other."""
    gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not (isinstance(gate_up, torch.nn.Parameter) and isinstance(down, torch.nn.Parameter)):
        return None
    if gate_up.ndim != 3 or down.ndim != 3 or len(gate_up) != len(down):
        return None
    transposed = bool(getattr(module, "is_transposed", False))
    one, other = (-1, -2) if transposed else (-2, -1)
    hidden, width = down.shape[one], down.shape[other]
    if gate_up.shape[other] != hidden or gate_up.shape[one] != 2 * width:
        return None
    return Sizes(len(down), hidden, width, transposed)


def quieten(module: nn.Module) -> None:
    """Experts with random weights, in place: see `QUIET`."""
    for part in module.modules():
        if sizes_of(part) is not None:
            part.get_parameter("down_proj").data.mul_(QUIET)


@torch.no_grad()
def find_gate(module: Any) -> Gate | None:
    """What is between the two products; None where it is nothing that is known here."""
    probe = torch.linspace(-11, 11, 64)
    probe = torch.stack([probe, probe.flip(0) * 0.7, probe.roll(7) + 0.3])
    try:
        answer = _between(module, probe)
    except Exception:  # of a module that is something else altogether
        return None
    for gate in _candidates(module):
        wanted = gate.apply(probe)
        if answer.shape == wanted.shape and torch.allclose(answer, wanted, rtol=1e-4, atol=1e-5):
            return gate
    return None


def _between(module: Any, gate_up: torch.Tensor) -> torch.Tensor:
    own = getattr(module, "_apply_gate", None)
    if own is not None:
        found: torch.Tensor = own(gate_up)
        return found
    gate, up = gate_up.chunk(2, dim=-1)
    found = module.act_fn(gate) * up
    return found


def _candidates(module: Any) -> Iterator[Gate]:
    alphas = (1.0, *_numbers(module, ("alpha", "swiglu_alpha")))
    limits = (None, *_numbers(module, ("limit", "swiglu_limit")))
    for interleaved in (False, True):
        for limit in limits:
            for shift in (0.0, 1.0):
                for alpha in alphas:
                    yield Gate(SILU, alpha, limit, shift, interleaved)
            yield Gate(GELU, limit=limit, interleaved=interleaved)
            yield Gate(GELU_TANH, limit=limit, interleaved=interleaved)


def _numbers(module: Any, names: tuple[str, ...]) -> tuple[float, ...]:
    found = (getattr(module, name, None) for name in names)
    return tuple(float(value) for value in found if isinstance(value, int | float))
