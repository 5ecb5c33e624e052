"""What the tensors of a LoRA adapter's file are, by their names. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path

from batchgen.lora_config import BIAS, MAGNITUDE, refused

__all__ = ["copied_parameter", "read_key", "token_rows"]

_KEY = re.compile(
    r"base_model\.model\.(.+)\.lora_(?:([AB])(?:\.default)?\.(weight|bias)"
    r"|magnitude_vector(?:\.default)?(?:\.weight)?)"
)
_COPY = re.compile(
    r"base_model\.model\.((?:(?!lora_|modules_to_save).)+?)(?:\.base_layer)?\.(weight|bias)"
)
_ROWS = re.compile(r"base_model\.model\.(.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
_OTHER_KEYS = {
    "lora_embedding": "a low-rank product beside an embedding",
    "lora_monteclora": "MonteCLoRA's samples",
    "lora_velora": "VeLoRA's projections",
    "modules_to_save": "whole modules that were trained too",
    "bias": "trained biases",
}


def read_key(folder: Path, key: str) -> tuple[str, str]:
    """Of a weight's name the layer's dotted name, and which of `LoraConfig.parts` it is. Raises
    ModelRefusedError for weights that are none."""
    match = _KEY.fullmatch(key)
    if match is not None and match[2] is None:
        return match[1], MAGNITUDE
    if match is not None and (match[2] == "B" or match[3] == "weight"):
        return match[1], match[2] if match[3] == "weight" else BIAS
    what = next((text for part, text in _OTHER_KEYS.items() if part in key), "other weights")
    raise refused(folder, f"holds {key!r}: {what} cannot be applied")


def token_rows(key: str) -> str | None:
    """Of trained rows the embedding's dotted name; None for other weights."""
    match = _ROWS.fullmatch(key)
    return None if match is None else match[1]


def copied_parameter(key: str) -> tuple[str, str] | None:
    """Of a weight that stands for the base model's own the layer's dotted name, and `weight` or
    `bias`: of modules that were trained whole, and copies that peft writes of embeddings and heads
    where a product lies beside one."""
    match = _COPY.fullmatch(key)
    return None if match is None else (match[1], match[2])
