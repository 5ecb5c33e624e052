"""A `.gguf` file as a transformers model, built from what the file itself says.

transformers' own loader passes over metadata and tensors that it does not map, without a word; so
config and weights are planned by `batchgen.gguf`, which refuses what it does not understand.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.gguf.module import make_module
from batchgen.engine.gguf.oracle import check_attention
from batchgen.engine.memory import give_back_loaded
from batchgen.engine.packed.layers import unrounded
from batchgen.gguf.architectures.plan import read_plan
from batchgen.gguf.parts import own_dtype
from batchgen.gguf.tokenizer.special import named_id
from batchgen.gguf_header import forget_gguf_headers

__all__ = ["load_gguf"]

SPECIAL_TOKENS = {
    "bos_token_id": "bos",
    "eos_token_id": "eos",
    "pad_token_id": "padding",
}


def load_gguf(path: Path, dtype: torch.dtype | str, *, packed: bool = False) -> Any:
    """Load the file, or its parts; `auto` is its own dtype. Raises ModelRefusedError, naming it,
    for whatever the file says that is not applied.

    `packed`: weights keep the file's blocks where they can; `auto`, of all else, is float32 then,
    as in llama.cpp.
    """
    plan = read_plan(path)
    ids = {name: named_id(plan.file.metadata, key) for name, key in SPECIAL_TOKENS.items()}
    plan = replace(plan, file=plan.file.without_vocabulary())
    forget_gguf_headers()
    own: torch.dtype = torch.float32 if packed else getattr(torch, own_dtype(plan.file))
    module = make_module(plan, own if isinstance(dtype, str) else dtype, packed=packed)
    for name, one in ids.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, one)
    give_back_loaded(module.device)
    with unrounded(module):
        check_attention(module.eval(), plan)
    give_back_loaded(module.device)
    return module
