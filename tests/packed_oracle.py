"""Random weights in each of ggml's block types, and what products with them have to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from batchgen.engine.packed.rounding import BLOCKS, is_wide, round_rows

KINDS = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}


def random_blocks(kind: int, num_outputs: int, num_inputs: int, seed: int = 0) -> Any:
    """uint8 [num_outputs, bytes of a row]: every bit random but the scales."""
    values, size = BLOCKS[kind]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (num_outputs, num_inputs // values, size), np.uint8)
    places = [208] if kind == 14 else [0, 2] if is_wide(kind) or kind in (3, 7) else [0]
    for place in places:
        scales = random.uniform(-0.02, 0.02, blocks.shape[:2]).astype(np.float16)
        blocks[..., place : place + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(num_outputs, -1)


def dense(raw: Any, kind: int) -> torch.Tensor:
    """The values, by the `gguf` package."""
    import gguf

    return torch.from_numpy(gguf.dequantize(raw, gguf.GGMLQuantizationType(kind)))


def expected(x: torch.Tensor, raw: Any, kind: int) -> torch.Tensor:
    """x weight^T in float64, the rows rounded as the type asks."""
    return F.linear(round_rows(x, kind).double(), dense(raw, kind).double())
