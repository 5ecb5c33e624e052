"""Tensors of a file that stay in their blocks: which can, and their rows in the module's order."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import torch
from torch import nn

from batchgen.engine.gguf.values import moved, raw_bytes
from batchgen.engine.packed.layers import PackedEmbedding, PackedLayer
from batchgen.engine.packed.product import PackedProduct
from batchgen.engine.packed.weight import PackedWeight, pack_rows
from batchgen.gguf.architectures.plan import Plan
from batchgen.gguf.tensors import Source, scale_name
from batchgen.gguf.weights_kept import can_stay

__all__ = ["pack_layer", "say_packed"]

_LOG = logging.getLogger(__name__)
_BY_ROWS = ("", "unpermute", "heads_first", "join")
"""Ways from tensor to weight that only put whole rows elsewhere."""
_PLAIN = (0, 1, 28, 30)


def pack_layer(module: nn.Module, name: str, plan: Plan) -> bool:
    """Let the layers that hold parameter `name` compute with the file's blocks, if that can be: a
    linear layer, an embedding, or an embedding and the head that is tied to it."""
    parameter = module.get_parameter(name)
    holders = {name: part for name, part in module.named_modules() if _holds(part, parameter)}
    if not all(type(layer) in (nn.Linear, nn.Embedding) for layer in holders.values()):
        return False
    weights = _packed(plan, plan.weights[name], tuple(parameter.shape))
    is_table = any(type(layer) is nn.Embedding for layer in holders.values())
    if not weights or (is_table and len(weights) != 1):
        return False
    for front, layer in holders.items():
        if isinstance(layer, nn.Embedding):
            module.set_submodule(front, PackedEmbedding(layer, weights[0]))
        elif isinstance(layer, nn.Linear):
            module.set_submodule(front, PackedLayer(layer, PackedProduct(weights, layer.bias)))
    return True


def _holds(module: nn.Module, parameter: nn.Parameter) -> bool:
    return any(own is parameter for own in module.parameters(recurse=False))


def _packed(plan: Plan, sources: list[Source], shape: tuple[int, ...]) -> list[PackedWeight]:
    """One packed weight a source, [] where one of them cannot stay as it is."""
    if not all(_stays(plan, source) for source in sources):
        return []
    found = []
    for source in sources:
        info = plan.file.tensors[source.name]
        order = moved(torch.arange(info.shape[0]), source.to, is_bias=False).numpy()
        raw = np.asarray(raw_bytes(plan.file, source.name)).reshape(info.shape[0], -1)
        found.append(pack_rows(raw, order, info.kind, info.shape[1]))
    rows = sum(weight.num_outputs for weight in found)
    fits = len(shape) == 2 and shape == (rows, found[0].num_inputs) if found else False
    return found if fits else []


def _stays(plan: Plan, source: Source) -> bool:
    info = plan.file.tensors[source.name]
    if scale_name(source.name) in plan.file.tensors:
        return False
    return can_stay(info) and source.to.how in _BY_ROWS and source.to.axis == 0


def say_packed(plan: Plan, packed: list[str], dense: list[str]) -> None:
    """At INFO: what stays packed, and by name what was quantised and does not."""
    _LOG.info("CPU: %d weights stay as the file packs them", len(packed))
    kinds = {name: info.kind for name, info in plan.file.tensors.items()}
    names = [n for n in dense if any(kinds[s.name] not in _PLAIN for s in plan.weights[n])]
    stems = Counter(".".join(p for p in name.split(".") if not p.isdigit()) for name in names)
    for stem, count in stems.items():
        _LOG.info("CPU: %s is dequantised: its layer or type cannot stay packed (%d)", stem, count)
