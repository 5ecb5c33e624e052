"""A layer of experts whose weights are in float8 (e4m3), a scale for each output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from batchgen.engine.mixture.form import Gate, Sizes, find_gate, sizes_of
from batchgen.engine.quantization.float8 import E4M3, Float8, round_rows, round_weight
from batchgen.engine.quantization.linear import kept

__all__ = ["RoundedExperts", "find_experts", "fits_rounding", "random_experts", "round_experts_of"]

_ALIGNMENT = 16
"""Of both sizes: what a thread reads at once."""
_STD = 0.02


def fits_rounding(sizes: Sizes) -> bool:
    """Whether experts of these sizes can be kept in float8."""
    return sizes.hidden % _ALIGNMENT == 0 and sizes.width % _ALIGNMENT == 0


def find_experts(module: nn.Module) -> dict[str, tuple[Sizes, Gate]]:
    """Modules of experts that can be kept in float8, by name."""
    found = {}
    for name, part in module.named_modules():
        sizes = sizes_of(part)
        gate = None if sizes is None or not fits_rounding(sizes) else find_gate(part)
        if sizes is not None and gate is not None:
            found[name] = (sizes, gate)
    return found


class RoundedExperts(nn.Module):
    """What is multiplied with the weights is rounded, too, with a scale for each row."""

    def __init__(
        self,
        gate_up: Float8,  # [num_experts, 2 * width, hidden]: gates, then ups
        down: Float8,  # [num_experts, hidden, width]
        gate: Gate,
        dtype: torch.dtype,
        biases: tuple[nn.Parameter | None, nn.Parameter | None] = (None, None),
    ) -> None:
        super().__init__()
        self.num_experts, self.hidden = down.values.shape[:2]
        self.gate, self.gate_text, self.dtype = gate.in_halves, gate.text, dtype
        self.gate_up, self.gate_up_scale = kept(gate_up.values), kept(gate_up.scale)
        self.down, self.down_scale = kept(down.values), kept(down.scale)
        self.gate_up_bias, self.down_bias = biases

    @property
    def num_weights(self) -> int:
        """Numbers that the rounded ones stand for."""
        return self.gate_up.numel() + self.down.numel()

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

    def oracle(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """The same by the definition, in float32, expert by expert."""
        rounded, out = _rounded(x), torch.zeros_like(x, dtype=torch.float32)
        for expert in chosen.unique().tolist():
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            inner = rounded[rows] @ self._dense(expert, self.gate_up, self.gate_up_scale).T
            if self.gate_up_bias is not None:
                inner = inner + self.gate_up_bias[expert].float()
            inner = _rounded(self.gate.apply(inner).to(x.dtype))
            found = inner @ self._dense(expert, self.down, self.down_scale).T
            if self.down_bias is not None:
                found = found + self.down_bias[expert].float()
            out.index_add_(0, rows, found * shares[rows, places, None].float())
        return out

    def _dense(self, expert: int, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return Float8(values[expert], scale[expert]).dense(torch.float32)

    def extra_repr(self) -> str:
        """For a printed model."""
        return f"num_experts={self.num_experts}, gate={self.gate}"


def _rounded(x: torch.Tensor) -> torch.Tensor:
    values, scale = round_rows(x)
    return values.float() * scale


def round_experts_of(
    module: Any, sizes: Sizes, gate: Gate, fetch: Callable[[torch.Tensor], torch.Tensor]
) -> RoundedExperts:
    """From a module's dense weights, one expert after the other, where `fetch` brings each."""

    def dense(stack: torch.Tensor, split: bool) -> Iterable[torch.Tensor]:
        for one in stack.detach():
            weight = fetch(one)
            weight = weight.T if sizes.transposed else weight
            yield torch.cat(gate.split(weight, dim=0)) if split else weight

    biases = [getattr(module, f"{name}_proj_bias", None) for name in ("gate_up", "down")]
    if biases[0] is not None:
        biases[0] = kept(torch.cat(gate.split(biases[0].detach(), dim=1), dim=1))
    gate_up, down = module.gate_up_proj, module.down_proj
    stacks = _stack(dense(gate_up, True), len(down)), _stack(dense(down, False), len(down))
    return RoundedExperts(*stacks, gate, down.dtype, (biases[0], biases[1]))


def random_experts(
    module: Any, sizes: Sizes, gate: Gate, dtype: torch.dtype, device: torch.device
) -> RoundedExperts:
    """In the place of a module without memory: for benchmarks."""

    def drawn(*shape: int) -> Iterable[torch.Tensor]:
        for _ in range(sizes.num_experts):
            yield torch.empty(shape, dtype=dtype, device=device).normal_(std=_STD)

    def bias(name: str) -> nn.Parameter | None:
        found = getattr(module, name, None)
        return None if found is None else kept(torch.zeros(found.shape, dtype=dtype, device=device))

    gate_up = _stack(drawn(2 * sizes.width, sizes.hidden), sizes.num_experts)
    down = _stack(drawn(sizes.hidden, sizes.width), sizes.num_experts)
    biases = bias("gate_up_proj_bias"), bias("down_proj_bias")
    return RoundedExperts(gate_up, down, gate, dtype, biases)


def _stack(weights: Iterable[torch.Tensor], count: int) -> Float8:
    """Each rounded by itself; never more than one is there whole."""
    values = scale = torch.empty(0)
    for place, weight in enumerate(weights):
        one = round_weight(weight)
        if not place:
            values = torch.empty(count, *one.values.shape, dtype=E4M3, device=weight.device)
            scale = one.scale.new_empty(count, len(one.scale))
        values[place], scale[place] = one.values, one.scale
    return Float8(values, scale)
