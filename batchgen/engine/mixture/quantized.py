"""Layers of experts whose weights are in fewer bits, and what they compute by the definition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from batchgen.engine.mixture.form import Gate
from batchgen.engine.quantization.linear import kept

__all__ = ["Biases", "Dense", "QuantizedExperts", "by_definition"]

Biases = tuple[torch.Tensor | None, torch.Tensor | None]
"""Of gates and ups, gates first; and of what follows."""
Dense = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""An expert's weights in float32: [2 * width, hidden], gates before ups, and [hidden, width]."""


class QuantizedExperts(nn.Module):
    """Everything it holds is a parameter, so that copies of a model share it."""

    def __init__(
        self,
        gate_up: tuple[torch.Tensor, torch.Tensor],  # values and scales
        down: tuple[torch.Tensor, torch.Tensor],
        biases: Biases,
        gate: Gate,
        num_weights: int,
    ) -> None:
        super().__init__()
        self.num_experts = len(down[0])
        self.num_weights = num_weights
        """Numbers that the quantised ones stand for."""
        self.gate, self.gate_text = gate.in_halves, gate.text
        self.gate_up, self.gate_up_scale = (kept(one) for one in gate_up)
        self.down, self.down_scale = (kept(one) for one in down)
        self.gate_up_bias, self.down_bias = (None if b is None else kept(b) for b in biases)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """As `layer.Experts`."""
        from batchgen.engine.mixture.products import mix_experts

        out: torch.Tensor = mix_experts(
            hidden_states, top_k_index, top_k_weights, self.gate_up, self.gate_up_bias, self.down,
            self.down_bias, self.gate_text, self.gate_up_scale, self.down_scale,
        )  # fmt: skip
        return out

    def extra_repr(self) -> str:
        """For a printed model."""
        return f"num_experts={self.num_experts}, gate={self.gate}"


def by_definition(
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dense: Dense,
    biases: Biases,
    gate: Gate,
    rounded: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float,
) -> torch.Tensor:
    """`forward` in float32, expert by expert. `rounded`: what becomes of rows before a product."""
    x, chosen, shares = given
    rows_in, out = rounded(x), torch.zeros_like(x, dtype=torch.float32)
    for expert in chosen.unique().tolist():
        gate_up, down = dense(expert)
        rows, places = (chosen == expert).nonzero(as_tuple=True)
        inner = _product(rows_in[rows], gate_up, biases[0], expert)
        found = _product(rounded(gate.apply(inner).to(x.dtype)), down, biases[1], expert)
        out.index_add_(0, rows, found * shares[rows, places, None].float())
    return out


def _product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, expert: int
) -> torch.Tensor:
    out = x @ weight.T
    return out if bias is None else out + bias[expert].float()
