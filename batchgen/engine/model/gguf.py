"""A `.gguf` file as a transformers model, built from what the file itself says.

transformers' own loader passes over metadata and tensors that it does not map, without a word; so
config and weights are planned by `batchgen.gguf`, which refuses what it does not understand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from batchgen.engine.gguf.module import make_module
from batchgen.engine.gguf.oracle import check_attention
from batchgen.gguf.architectures.plan import read_plan

__all__ = ["load_gguf"]

OWN_DTYPES = {0: torch.float32, 1: torch.float16, 32: torch.bfloat16}
"""`general.file_type` of files that are not quantised; all others come out as bfloat16."""
SPECIAL_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def load_gguf(path: Path, dtype: torch.dtype | str) -> Any:
    """Load the file, or its parts; `auto` is its own dtype. Raises ModelRefusedError, naming it,
    for whatever the file says that is not applied."""
    plan = read_plan(path)
    fields = plan.file.metadata
    if isinstance(dtype, str):
        dtype = OWN_DTYPES.get(fields.get("general.file_type", -1), torch.bfloat16)
    module = make_module(plan, dtype)
    for name, key in SPECIAL_TOKENS.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, fields.get(key))
    check_attention(module.eval(), plan)
    return module
