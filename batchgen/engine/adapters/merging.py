"""One adapter for every row: it is put into the weights, once, at load."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.adapters.lora import Lora, LoraLayer

__all__ = ["merge", "merged_bias", "merged_weight", "replace_weights"]


@torch.inference_mode()
def replace_weights(module: nn.Module, lora: Lora) -> None:
    """Put the weights that the adapter brings anew in the place of the module's own. A table that
    head and embedding shared is no longer shared, but for rows of it, which are trained for both.
    """
    owners = {
        key: [part for part in module.modules() if getattr(part, "weight", None) is own]
        for key in lora.rows
        if isinstance(own := module.get_parameter(key), nn.Parameter)
    }
    for key, tensor in lora.replaced.items():
        name, _, kind = key.rpartition(".")
        part: Any = module.get_submodule(name)
        fresh = nn.Parameter(tensor.to(getattr(part, kind)), requires_grad=False)
        for one in owners.get(key, [part]):
            setattr(one, kind, fresh)


@torch.inference_mode()
def merge(module: nn.Module, lora: Lora) -> None:
    """Put the adapter into the module's weights, in place."""
    for name, layer in lora.layers.items():
        part: Any = module.get_submodule(name)
        bias = merged_bias(part, layer)
        part.weight = nn.Parameter(merged_weight(part, layer), requires_grad=False)
        if bias is not None:
            part.bias = nn.Parameter(bias, requires_grad=False)


def merged_weight(part: Any, layer: LoraLayer) -> torch.Tensor:
    """The layer's weight with the adapter in it, in the layer's own layout: summed in float32 and
    rounded once."""
    weight: torch.Tensor = part.weight
    if type(part) is Conv1D:
        return layer.merged(weight.t()).t().to(weight.dtype).contiguous()
    return layer.merged(weight).to(weight.dtype)


def merged_bias(part: Any, layer: LoraLayer) -> torch.Tensor | None:
    """The same of its bias, which a layer may get only now; None where there is none."""
    own: torch.Tensor | None = part.bias
    if layer.bias is None:
        return own
    more = layer.bias.to(part.weight.device)
    return (more if own is None else own.float() + more).to(part.weight.dtype)
