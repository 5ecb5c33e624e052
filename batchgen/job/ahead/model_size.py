"""A model's size from its small files: parameters, bytes of weights, bytes of cache a token."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.job.ahead.cost import ModelShape
from batchgen.job.model.files import ModelFiles, ModelKind

__all__ = ["shape_of"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def shape_of(files: ModelFiles, dtype: str, kv_cache_dtype: str = "auto") -> ModelShape:
    """`dtype` auto is the checkpoint's own. Raises ModelRefusedError where the files do not say."""
    config = files.config.get("text_config") or files.config
    named = dtype if dtype != "auto" else str(config.get("dtype") or config.get("torch_dtype"))
    width = _BYTES.get(named.removeprefix("torch."), 2)
    parameters = _parameters(files.path)
    layers, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    if files.kind is not ModelKind.FOLDER or not parameters or not layers or not heads:
        raise ModelRefusedError(
            f"{files.name}: its size cannot be told from safetensors headers and config.json",
            "preview and validate work with it; plan knows folders with safetensors weights",
        )
    cached = 1 if kv_cache_dtype == "fp8" else width
    return ModelShape(parameters, parameters * width, _cached_values(config, layers) * cached)


def _cached_values(config: dict[str, Any], layers: int) -> int:
    """Numbers that the cache holds of one token."""
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    return int(2 * layers * (config.get("num_key_value_heads") or heads) * size)


def _parameters(folder: Path) -> int:
    """Of all safetensors files, from their headers."""
    total = 0
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    return total
