"""Random weights of a model's real shapes, for benchmarks: only config.json is read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from batchgen.engine.config import EngineConfig
from batchgen.engine.model.checkpoint import described
from batchgen.engine.model.packed_folder import load_random_packed
from batchgen.engine.quantization.scheme import Scheme

__all__ = ["load_random"]


def load_random(
    own: Any, dtype: torch.dtype | str, config: EngineConfig, device: torch.device
) -> Any:
    """The architecture, its weights made where they are used: on a GPU quantised as config.json
    says, or as `--quantization` asks."""
    torch.manual_seed(config.seed)
    scheme = _scheme(own, config)
    if scheme is not None and device.type == "cuda" and not config.deterministic:
        remote = config.trust_remote_code
        return load_random_packed(own, scheme, dtype, device, trust_remote_code=remote)
    if isinstance(dtype, str):
        dtype = own.dtype or torch.float32
    make: Any = AutoModelForCausalLM.from_config
    with device:
        return make(own, dtype=dtype, attn_implementation="eager")


def _scheme(own: Any, config: EngineConfig) -> Scheme | None:
    found = described(config.model, own)
    if found is not None:
        found.check(str(config.model), quantization=config.quantization, deterministic=False)
        return found.scheme
    return Scheme("float8") if config.quantization == "fp8" else None
