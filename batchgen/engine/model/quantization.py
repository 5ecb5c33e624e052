"""What `--quantization` makes of a model's weights: decided and checked before any is loaded."""

from __future__ import annotations

from dataclasses import replace

import torch

from batchgen.engine.config import EngineConfig
from batchgen.errors import UsageError
from batchgen.gguf.weights_kept import PACKED, PLAIN, decide_quantization

__all__ = ["settle_quantization"]


def settle_quantization(config: EngineConfig, device: torch.device) -> EngineConfig:
    """The config with what is done, or None. Raises UsageError where what was asked for would do
    nothing."""
    decided = decide_quantization(
        config.quantization or (PLAIN if config.deterministic else None),
        config.model,
        devices=[device.type],
        dtype=config.dtype,
        has_adapters=bool(config.adapters),
    )
    if decided == PACKED:
        _check_packed(config, device)
    return replace(config, quantization=None if decided == PLAIN else decided)


def _check_packed(config: EngineConfig, device: torch.device) -> None:
    asked = f"--quantization {PACKED}"
    if device.type != "cpu" or config.dtype == "float16":
        raise UsageError(f"{asked} is for the CPU, in float32 or bfloat16", "leave it out")
    if not config.model.is_file():
        raise UsageError(
            f"{asked} keeps the blocks of a .gguf file, and the model is none",
            "leave it out, or name a .gguf file",
        )
    if config.adapters:
        raise UsageError(
            f"{asked} keeps weights as they are, and an adapter changes them",
            "leave one of the two out",
        )
