"""Random weights of a model's real shapes, for benchmarks: only config.json is read."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from batchgen.engine.checkpoint.packed_folder import load_random_packed
from batchgen.engine.checkpoint.quantized import described
from batchgen.engine.checkpoint.quiet import quietly
from batchgen.engine.config import EngineConfig
from batchgen.engine.mixture.form import quieten
from batchgen.engine.parallel.splitting import split_arguments
from batchgen.engine.quantization.scheme import Scheme

__all__ = ["load_random"]


def load_random(
    own: Any, dtype: torch.dtype | str, config: EngineConfig, device: torch.device
) -> Any:
    """The architecture, its weights made where they are used: on a GPU quantised as config.json
    says, or as `--quantization` asks."""
    torch.manual_seed(config.seed)
    if config.tensor_parallel > 1:
        return _load_share(own, dtype, config, device)
    scheme, has_blocks = _scheme(own, config)
    if (scheme is not None or has_blocks) and device.type == "cuda" and not config.deterministic:
        remote = config.trust_remote_code
        return load_random_packed(own, scheme, dtype, device, trust_remote_code=remote)
    if isinstance(dtype, str):
        dtype = own.dtype or torch.float32
    make: Any = AutoModelForCausalLM.from_config
    with device:
        module = make(own, dtype=dtype, attn_implementation="eager")
    quieten(module)
    return module


def _load_share(
    own: Any, dtype: torch.dtype | str, config: EngineConfig, device: torch.device
) -> Any:
    """This rank's slices alone: to transformers, a checkpoint in which every weight is missing."""
    with (
        quietly(),
        warnings.catch_warnings(),
        split_arguments(config.tensor_parallel, device) as more,
    ):
        warnings.filterwarnings("ignore", "DTensor random operators", UserWarning)  # any will do
        make: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(own)]
        return make.from_pretrained(
            None, config=own, state_dict={}, dtype=dtype, attn_implementation="eager", **more
        )


def _scheme(own: Any, config: EngineConfig) -> tuple[Scheme | None, bool]:
    """Of linear layers; and whether experts are in MXFP4."""
    found = described(config.model, own.to_dict())
    if found is not None:
        found.check(str(config.model), quantization=config.quantization, deterministic=False)
        return found.scheme, found.method == "mxfp4"
    return Scheme("float8") if config.quantization == "fp8" else None, False
