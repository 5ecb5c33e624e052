"""A `.gguf` file as a transformers model: weights dequantised, special tokens from the file itself.

transformers' loader takes some special tokens from the architecture's defaults (SmolLM2's eos came
out as another id than the file says), so they are read from the header and set here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from batchgen.engine.model.quiet import quiet_thread
from batchgen.gguf_header import read_gguf_header

__all__ = ["load_gguf"]

OWN_DTYPES = {0: torch.float32, 1: torch.float16, 32: torch.bfloat16}
"""`general.file_type` of files that are not quantised; all others come out as bfloat16."""
SPECIAL_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def load_gguf(path: Path, dtype: torch.dtype | str) -> Any:
    """Load the file through transformers; `auto` is the file's own dtype."""
    fields = read_gguf_header(path).metadata
    if dtype == "auto":
        dtype = OWN_DTYPES.get(fields.get("general.file_type", -1), torch.bfloat16)
    with quiet_thread():  # its progress bar heeds no setting
        module = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, attn_implementation="eager", **_dense()
        )
    for name, key in SPECIAL_TOKENS.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, fields.get(key))
    return module


def _dense() -> dict[str, Any]:
    """Ask for dequantised weights where transformers would leave them packed (5.23 does)."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}
