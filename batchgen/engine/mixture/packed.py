"""Experts whose weights stay in MXFP4, as gpt-oss checkpoints have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from batchgen.engine.mixture.form import QUIET, Gate, Sizes
from batchgen.engine.mixture.four_bits import RUN, Packed, dense_blocks, pack_blocks
from batchgen.engine.mixture.quantized import Biases, QuantizedExperts, by_definition

__all__ = ["Blocks", "PackedExperts", "Stored", "pack_experts", "random_packed"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One stack of a checkpoint: outputs by inputs, gates and ups as the module has them."""

    blocks: torch.Tensor  # uint8 [num_experts, num_outputs, num_inputs / 32, 16]
    scales: torch.Tensor  # uint8 [num_experts, num_outputs, num_inputs / 32]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A layer of a checkpoint."""

    gate_up: Stored
    down: Stored
    biases: Biases
    """As `quantized.Biases`: gates before ups."""
    gate: Gate

    def expert(self, number: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """Blocks and scales of one: gates before ups, and what follows."""
        found = self.gate_up.blocks[number], self.gate_up.scales[number]
        first = tuple(torch.cat(self.gate.split(one, dim=0)) for one in found)
        return first, (self.down.blocks[number], self.down.scales[number])

    def dense(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Its weights in float32, by the definition."""
        gate_up, down = self.expert(number)
        return dense_blocks(gate_up[0], gate_up[1]), dense_blocks(down[0], down[1])

    def oracle(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """What the layer computes, by the definition."""
        return by_definition((x, chosen, shares), self.dense, self.biases, self.gate.in_halves)


class PackedExperts(QuantizedExperts):
    """Weights are words, see `four_bits`; what is multiplied with them keeps its dtype."""


def pack_experts(blocks: Blocks) -> PackedExperts:
    """Raises ValueError for scales that the kernels cannot take."""
    parts: tuple[list[Packed], list[Packed]] = [], []
    for number in range(len(blocks.down.blocks)):
        for found, (values, scales) in zip(parts, blocks.expert(number), strict=True):
            found.append(pack_blocks(values, scales))
    gate_up, down = (
        (torch.stack([p.words for p in found]), torch.stack([p.scales for p in found]))
        for found in parts
    )
    count = 2 * (blocks.gate_up.blocks.numel() + blocks.down.blocks.numel())
    return PackedExperts(gate_up, down, blocks.biases, blocks.gate, count)


def random_packed(
    sizes: Sizes, gate: Gate, biases: Biases, _: torch.dtype, device: torch.device
) -> PackedExperts:
    """As a checkpoint might have them: for benchmarks. Numbers are about 0.02, of `down` about
    0.02 * `QUIET`."""

    def drawn(outputs: int, inputs: int, share: float = 1.0) -> Stored:
        shape = (sizes.num_experts, outputs, inputs // RUN)
        make: Callable[..., torch.Tensor] = torch.randint
        values = make(0, 256, (*shape, RUN // 2), dtype=torch.uint8, device=device)
        least = 118 + round(math.log2(share))
        return Stored(values, make(least, least + 4, shape, dtype=torch.uint8, device=device))

    gate_up = drawn(2 * sizes.width, sizes.hidden)
    down = drawn(sizes.hidden, sizes.width, QUIET)
    return pack_experts(Blocks(gate_up, down, biases, gate))
