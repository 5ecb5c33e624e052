"""`--quantization fp8`: where it can be served, and what of a dense model is rounded."""

from __future__ import annotations

from typing import Any

import torch

from batchgen.engine.config import CPU_ROUNDINGS, EngineConfig
from batchgen.engine.mixture.replacing import round_experts
from batchgen.engine.model.placement import fetcher
from batchgen.engine.quantization.proof import has_quantized
from batchgen.engine.quantization.replacing import round_linears
from batchgen.errors import UsageError

__all__ = ["check_quantization", "round_module"]

_MULTIPLIES = (8, 9)
"""Least compute capability with products of float8."""


def check_quantization(config: EngineConfig, device: torch.device) -> None:
    """Raises UsageError, before weights are loaded, where `--quantization` would do nothing."""
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
    found = torch.cuda.get_device_capability(device)
    if found < _MULTIPLIES:
        raise UsageError(
            "--quantization fp8 needs a GPU that multiplies float8, of compute capability 8.9 or "
            f"later; {torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}",
            "leave it out",
        )


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
