"""From the adapters of a config to a module that has them, or refuses them by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from batchgen.counts import counted
from batchgen.engine.adapters.lora import load_lora
from batchgen.engine.adapters.merging import merge, replace_weights
from batchgen.engine.adapters.proof import (
    check_merged,
    expected_logits,
    prove_adapters,
    unmerged_logits,
)
from batchgen.engine.adapters.serving import AdapterSet
from batchgen.engine.config import EngineConfig
from batchgen.engine.cpu.optimize import pack_layers
from batchgen.engine.model.model import Model
from batchgen.engine.model.proof_logits import own_logits
from batchgen.errors import ModelRefusedError

__all__ = ["AttachedAdapters", "attach_adapters"]


@dataclass(frozen=True, slots=True)
class AttachedAdapters:
    """Adapters that rows choose, not proven yet. `expected`: logits of each, "" being none."""

    adapters: AdapterSet
    expected: dict[str, list[torch.Tensor]]

    def settle(self, model: Model, *, in_graphs: bool) -> None:
        """Prove that each row gets its own through the bound model. Raises ModelRefusedError.

        `in_graphs`: layers are to be compiled and steps captured, on a GPU, if this model's can be.
        """
        model.ends_alone = False  # what adds an adapter's part is told of all tokens of a step
        grouped = _grouped(model, self) if in_graphs else None
        if grouped is None:
            if model.device.type == "cpu":
                pack_layers(model.module, sorted(self.adapters.layers))
            prove_adapters(model, self.adapters, self.expected)
        model.adapters = grouped or self.adapters
        model.notes.append(f"rows choose among adapters: {', '.join(self.adapters.names)}")


def attach_adapters(module: Any, config: EngineConfig) -> AttachedAdapters | None:
    """Merge the one adapter that all rows use (None), or hang several beside their layers.

    Raises ModelRefusedError, naming what does not fit.
    """
    vocab_size: int = module.get_output_embeddings().weight.shape[0]
    loras = [load_lora(one.name, one.folder, one.weights, module) for one in config.adapters]
    if not config.chooses_adapters:
        (lora,) = loras
        replace_weights(module, lora)
        unmerged = unmerged_logits(module, lora, vocab_size)
        merge(module, lora)
        check_merged(module, lora, unmerged, vocab_size)
        return None
    for lora in loras:
        if lora.replaced:
            raise ModelRefusedError(
                f"adapter {lora.name}: it brings {counted(len(lora.replaced), 'weight')} of the "
                f"model's own anew, the first is {min(lora.replaced)!r}: no row can choose that",
                "give it alone, as the one --adapter of a job: it becomes part of the model",
            )
    expected = {"": own_logits(module, vocab_size)}
    expected |= {lora.name: expected_logits(module, lora, vocab_size) for lora in loras}
    return AttachedAdapters(AdapterSet(module, [lora.placed(module) for lora in loras]), expected)


def _grouped(model: Model, attached: AttachedAdapters) -> Any:
    """`GroupedAdapters` in the place of hooks, proven; None: hooks it is, and a note says why."""
    from batchgen.engine.adapters.grouped import GroupedAdapters  # with triton

    adapters = attached.adapters
    if not GroupedAdapters.can_hold(model.module, sorted(adapters.layers)):
        model.notes.append("adapters of layers that are not plain: no graphs, no compiled layers")
        return None
    if not all(layer.is_plain for lora in adapters.loras for layer in lora.layers.values()):
        model.notes.append("adapters with magnitudes or biases: no graphs, no compiled layers")
        return None
    adapters.unhook()
    grouped = GroupedAdapters(model.module, adapters.loras)
    try:
        prove_adapters(model, grouped, attached.expected)
    except ModelRefusedError as error:
        grouped.let_go()
        adapters.hook(model.module)
        model.notes.append(f"no graphs and no compiled layers for adapters: {error}")
        return None
    return grouped
