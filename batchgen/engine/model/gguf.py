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
from batchgen.gguf.parts import own_dtype
from batchgen.gguf.tokenizer.special import named_id

__all__ = ["load_gguf"]

SPECIAL_TOKENS = {
    "bos_token_id": "bos",
    "eos_token_id": "eos",
    "pad_token_id": "padding",
}


def load_gguf(path: Path, dtype: torch.dtype | str) -> Any:
    """Load the file, or its parts; `auto` is its own dtype. Raises ModelRefusedError, naming it,
    for whatever the file says that is not applied."""
    plan = read_plan(path)
    own: torch.dtype = getattr(torch, own_dtype(plan.file))
    module = make_module(plan, own if isinstance(dtype, str) else dtype)
    for name, key in SPECIAL_TOKENS.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, named_id(plan.file.metadata, key))
    check_attention(module.eval(), plan)
    return module
