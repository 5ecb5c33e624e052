"""One adapter for every row: its products are added to the weights, once, at load."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.adapters.lora import Lora, LoraLayer

__all__ = ["merge", "merged_weight"]


@torch.inference_mode()
def merge(module: nn.Module, lora: Lora) -> None:
    """Add the adapter to the module's weights, in place."""
    for name, layer in lora.layers.items():
        part: Any = module.get_submodule(name)
        part.weight = nn.Parameter(merged_weight(part, layer), requires_grad=False)


def merged_weight(part: Any, layer: LoraLayer) -> torch.Tensor:
    """The layer's weight with the product in it, in the layer's own layout: summed in float32 and
    rounded once."""
    weight: torch.Tensor = part.weight
    delta = layer.delta(weight.device)
    if type(part) is Conv1D:
        delta = delta.t()
    return (weight.float() + delta).to(weight.dtype)
