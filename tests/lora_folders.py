"""LoRA adapters as peft writes them, made without peft: config and weights in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

PREFIX = "base_model.model."


def adapted_layers(module: nn.Module, endings: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Dotted name -> (inputs, outputs) of the linear layers with these endings."""
    found = {}
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in endings and isinstance(part, nn.Linear | Conv1D):
            shape = part.weight.shape
            found[name] = (shape[0], shape[1]) if isinstance(part, Conv1D) else (shape[1], shape[0])
    assert found, endings
    return found


def lora_folder(
    folder: Path, module: nn.Module, endings: Sequence[str], seed: int = 0, **config: Any
) -> Path:
    """Random products, wide enough to change every token. `rank_pattern` as in the config."""
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8,
        "target_modules": list(endings), "bias": "none", "base_model_name_or_path": "me/tiny",
    } | config  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (inputs, outputs) in adapted_layers(module, endings).items():
        ending = name.rpartition(".")[2]
        rank = settings.get("rank_pattern", {}).get(ending, settings["r"])
        for half, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            values = torch.randn(shape, generator=generator) * 0.3
            weights[f"{PREFIX}{name}.lora_{half}.weight"] = values
        for setting, part in (("use_dora", "magnitude_vector"), ("lora_bias", "B.bias")):
            if settings.get(setting):
                values = torch.rand(outputs, generator=generator) + 0.5
                weights[f"{PREFIX}{name}.lora_{part}"] = values
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
