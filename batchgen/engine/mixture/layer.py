"""The module that replaces a model's own MoE module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from batchgen.engine.mixture.form import Gate, Sizes
from batchgen.engine.quantization.linear import kept

__all__ = ["Experts"]


class Experts(nn.Module):
    """Computes an MoE module by grouped products. It shares the module's weights where their layout
    is the kernels': outputs by inputs, all gates before all ups; else it has copies."""

    def __init__(self, module: Any, sizes: Sizes, gate: Gate) -> None:
        super().__init__()
        self.num_experts, self.gate_text = sizes.num_experts, gate.text
        self.gate = gate.in_halves
        self.gate_up_proj = _laid_out(module.gate_up_proj, sizes.transposed, gate)
        self.down_proj = _laid_out(module.down_proj, sizes.transposed)
        bias = getattr(module, "gate_up_proj_bias", None)
        self.gate_up_proj_bias = None if bias is None else _laid_out(bias, False, gate)
        self.down_proj_bias: nn.Parameter | None = getattr(module, "down_proj_bias", None)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """hidden_states [num_tokens, hidden]; of each token, its experts and their shares
        [num_tokens, experts of a token] -> [num_tokens, hidden]."""
        from batchgen.engine.mixture.products import mix_experts

        out: torch.Tensor = mix_experts(
            hidden_states, top_k_index, top_k_weights, self.gate_up_proj, self.gate_up_proj_bias,
            self.down_proj, self.down_proj_bias, self.gate_text,
        )  # fmt: skip
        return out

    def extra_repr(self) -> str:
        """For a printed model."""
        return f"num_experts={self.num_experts}, gate={self.gate}"


def _laid_out(parameter: nn.Parameter, transposed: bool, gate: Gate | None = None) -> nn.Parameter:
    """[num_experts, outputs, inputs] or [num_experts, outputs], gates before ups; itself where it
    is so already."""
    values = parameter.detach().transpose(1, 2) if transposed else parameter.detach()
    if gate is not None and gate.interleaved:
        return kept(torch.cat(gate.split(values, dim=1), dim=1).contiguous())
    return kept(values.contiguous()) if transposed or not values.is_contiguous() else parameter
