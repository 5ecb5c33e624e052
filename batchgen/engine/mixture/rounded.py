"""A layer of experts whose weights are in float8 (e4m3), a scale for each output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from batchgen.engine.mixture.form import QUIET, SILU, Gate, Sizes, find_gate, sizes_of
from batchgen.engine.mixture.quantized import Biases, QuantizedExperts, by_definition
from batchgen.engine.quantization.float8 import E4M3, Float8, round_rows, round_weight

__all__ = [
    "ALIGNMENT",
    "RoundedExperts",
    "biases_of",
    "find_experts",
    "fits_rounding",
    "random_biases",
    "random_experts",
    "round_experts_of",
]

ALIGNMENT = 16
"""Of both sizes: what a thread reads at once."""
_STD = 0.02


def fits_rounding(sizes: Sizes) -> bool:
    """Whether experts of these sizes can be kept in float8."""
    return sizes.hidden % ALIGNMENT == 0 and sizes.width % ALIGNMENT == 0


def find_experts(module: nn.Module, unit: int) -> dict[str, tuple[Sizes, Gate]]:
    """Modules of experts, by name, that are known and whose sizes are multiples of `unit`."""
    found = {}
    for name, part in module.named_modules():
        sizes = sizes_of(part)
        fits = sizes is not None and sizes.hidden % unit == 0 and sizes.width % unit == 0
        gate = find_gate(part) if fits else None
        if sizes is not None and gate is not None:
            found[name] = (sizes, gate)
    return found


class RoundedExperts(QuantizedExperts):
    """What is multiplied with the weights is rounded, too, with a scale for each row."""

    def __init__(self, gate_up: Float8, down: Float8, biases: Biases, gate: Gate) -> None:
        """Of values [num_experts, 2 * width, hidden], gates before ups, and [.., hidden, width]."""
        halves = [(one.values, one.scale) for one in (gate_up, down)]
        count = gate_up.values.numel() + down.values.numel()
        super().__init__(halves[0], halves[1], biases, gate, count)

    def oracle(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """The same by the definition, in float32."""
        biases = self.gate_up_bias, self.down_bias
        return by_definition((x, chosen, shares), self._dense, biases, self.gate, _rounded)

    def _dense(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        gate_up = Float8(self.gate_up[expert], self.gate_up_scale[expert])
        down = Float8(self.down[expert], self.down_scale[expert])
        return gate_up.dense(torch.float32), down.dense(torch.float32)


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

    gate_up, down = module.gate_up_proj, module.down_proj
    stacks = _stack(dense(gate_up, True), len(down)), _stack(dense(down, False), len(down))
    one, two = (None if bias is None else fetch(bias) for bias in biases_of(module, gate))
    return RoundedExperts(*stacks, (one, two), gate)


def random_experts(
    sizes: Sizes, gate: Gate, biases: Biases, dtype: torch.dtype, device: torch.device
) -> RoundedExperts:
    """For benchmarks. See `QUIET`."""

    def drawn(outputs: int, inputs: int, std: float = _STD) -> Iterable[torch.Tensor]:
        for _ in range(sizes.num_experts):
            yield torch.empty(outputs, inputs, dtype=dtype, device=device).normal_(std=std)

    gate_up = _stack(drawn(2 * sizes.width, sizes.hidden), sizes.num_experts)
    down = _stack(drawn(sizes.hidden, sizes.width, _STD * QUIET), sizes.num_experts)
    return RoundedExperts(gate_up, down, biases, gate)


def biases_of(module: Any, gate: Gate) -> Biases:
    """Those of a module that has some, gates before ups."""
    gate_up, down = (getattr(module, f"{name}_proj_bias", None) for name in ("gate_up", "down"))
    if gate_up is not None:
        gate_up = torch.cat(gate.split(gate_up.detach(), dim=1), dim=1)
    return gate_up, down


def random_biases(module: Any, dtype: torch.dtype, device: torch.device) -> Biases:
    """Zeros, where the module has some."""
    found = biases_of(module, Gate(SILU))
    shapes = [None if bias is None else bias.shape for bias in found]
    one, two = (s if s is None else torch.zeros(s, dtype=dtype, device=device) for s in shapes)
    return one, two


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
