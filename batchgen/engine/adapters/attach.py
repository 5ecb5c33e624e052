"""From the adapters of a config to a module that has them, or refuses them by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.adapters.lora import load_lora
from batchgen.engine.adapters.merging import merge
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
from batchgen.engine.model.proof import own_logits

__all__ = ["AttachedAdapters", "attach_adapters"]


@dataclass(frozen=True, slots=True)
class AttachedAdapters:
    """Adapters that rows choose, not proven yet. `expected`: logits of each, "" being none."""

    adapters: AdapterSet
    expected: dict[str, list[torch.Tensor]]

    def settle(self, model: Model) -> None:
        """Prove that each row gets its own through the bound model. Raises ModelRefusedError."""
        if model.device.type == "cpu":
            pack_layers(model.module, sorted(self.adapters.layers))
        prove_adapters(model, self.adapters, self.expected)
        model.adapters = self.adapters
        model.notes.append(f"rows choose among adapters: {', '.join(self.adapters.names)}")


def attach_adapters(module: Any, config: EngineConfig) -> AttachedAdapters | None:
    """Merge the one adapter that all rows use (None), or hang several beside their layers.

    Raises ModelRefusedError, naming what does not fit.
    """
    vocab_size: int = module.get_output_embeddings().weight.shape[0]
    loras = [load_lora(one.name, one.folder, one.weights, module) for one in config.adapters]
    if not config.chooses_adapters:
        (lora,) = loras
        unmerged = unmerged_logits(module, lora, vocab_size)
        merge(module, lora)
        check_merged(module, lora, unmerged, vocab_size)
        return None
    expected = {"": own_logits(module, vocab_size)}
    expected |= {lora.name: expected_logits(module, lora, vocab_size) for lora in loras}
    return AttachedAdapters(AdapterSet(module, [lora.placed(module) for lora in loras]), expected)
