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
from batchgen.gguf.parts import GgufFile
from batchgen.gguf.tokenizer.special import named_id

__all__ = ["load_gguf"]

OWN_DTYPES = {0: torch.float32, 1: torch.float16}
"""By the ggml type of matrices, where all are alike (or some are float32)."""
SPECIAL_TOKENS = {
    "bos_token_id": "bos",
    "eos_token_id": "eos",
    "pad_token_id": "padding",
}


def load_gguf(path: Path, dtype: torch.dtype | str) -> Any:
    """Load the file, or its parts; `auto` is its own dtype. Raises ModelRefusedError, naming it,
    for whatever the file says that is not applied."""
    plan = read_plan(path)
    module = make_module(plan, _own_dtype(plan.file) if isinstance(dtype, str) else dtype)
    for name, key in SPECIAL_TOKENS.items():
        for holder in (module.config, module.generation_config):
            setattr(holder, name, named_id(plan.file.metadata, key))
    check_attention(module.eval(), plan)
    return module


def _own_dtype(file: GgufFile) -> torch.dtype:
    """What the matrices are stored in; bfloat16 for all that is quantised or mixed."""
    kinds = {info.kind for info in file.tensors.values() if len(info.shape) > 1}
    kinds = kinds - {0} or kinds
    return OWN_DTYPES.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16
