"""Tiny models whose experts are in MXFP4, as gpt-oss checkpoints have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import MIXED, tiny_model

MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "model.embed_tokens"]}
FP4_VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def save(folder: Path, quantization: Any, weights: dict[str, torch.Tensor], module: Any) -> Path:
    module.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_mxfp4(folder: Path, **changes: Any) -> Path:
    """Experts in 4 bits, 32 of them under one power of two, as gpt-oss ships them."""
    module = tiny_model("gpt_oss", **{"layer_types": MIXED, "intermediate_size": 32, **changes})
    weights = dict(module.state_dict())
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        groups = weights.pop(name).transpose(1, 2).unflatten(2, (-1, 32))
        scale = (groups.abs().amax(-1) / 6).log2().ceil()
        scaled = groups / scale.exp2()[..., None]
        codes = (scaled.abs()[..., None] - FP4_VALUES).abs().argmin(-1) + 8 * (scaled < 0)
        codes = codes.to(torch.uint8)
        weights[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        weights[f"{name}_scales"] = (scale + 127).to(torch.uint8)
    return save(folder, MXFP4, weights, module)
