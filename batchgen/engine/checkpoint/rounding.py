"""What `--quantization` makes of a model's weights: decided and checked before any is loaded; and a
dense model rounded to float8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from batchgen.engine.checkpoint.placement import fetcher
from batchgen.engine.config import CPU_ROUNDINGS, EngineConfig
from batchgen.engine.gpu import check_float8
from batchgen.engine.mixture.replacing import round_experts
from batchgen.engine.quantization.proof import has_quantized
from batchgen.engine.quantization.replacing import round_linears
from batchgen.errors import UsageError
from batchgen.gguf.weights_kept import PACKED, PLAIN, decide_quantization

__all__ = ["round_module", "settle_quantization"]


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
    config = replace(config, quantization=None if decided == PLAIN else decided)
    _check_rounding(config, device)
    return config


def round_module(module: Any, config: EngineConfig, device: torch.device) -> list[str]:
    """Linear layers and experts in float8, if that was asked for; the notes a user should read."""
    if config.quantization != "fp8" or has_quantized(module):
        return []
    if module.get_input_embeddings().weight.dtype == torch.float32:
        raise UsageError(
            "--quantization fp8 is for models in bfloat16 or float16, and this one is in float32",
            "add --dtype bfloat16, or leave --quantization out",
        )
    fetch = fetcher(device)
    return round_linears(module, fetch) + round_experts(module, fetch)


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


def _check_rounding(config: EngineConfig, device: torch.device) -> None:
    if config.quantization in CPU_ROUNDINGS and not _is_for_cpu(config, device):
        text = f"--quantization {config.quantization} is for the CPU, in float32 or bfloat16"
        raise UsageError(text, "leave it out")
    if config.quantization == "fp8":
        _check_float8(config.dtype, device)


def _is_for_cpu(config: EngineConfig, device: torch.device) -> bool:
    return device.type == "cpu" and config.dtype != "float16"


def _check_float8(dtype: str, device: torch.device) -> None:
    if device.type != "cuda" or dtype == "float32":
        raise UsageError(
            "--quantization fp8 is for CUDA, in bfloat16 or float16",
            "leave it out; --quantization int8 and q4 are for the CPU",
        )
    check_float8(device, "--quantization fp8", "multiplies")
