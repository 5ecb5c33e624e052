"""What a GPU does slowly the first time: load its linear algebra and the code of each kernel.

None of it needs Python's lock for long, so it is done beside imports that need nothing else.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["warm_device"]


@torch.inference_mode()
def warm_device(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """Run what a decoder consists of, once, on a few zeros; returns after the device has."""
    tokens = torch.arange(8, device=device)
    table = torch.zeros(16, 64, dtype=dtype, device=device)
    hidden = _normalized(functional.embedding(tokens, table))
    query = _rotated(functional.linear(hidden, table).view(1, 8, 2, 8).transpose(1, 2), tokens)
    scores = torch.matmul(query, query.transpose(2, 3)) * 0.1
    unseen = tokens[None, :] > tokens[:, None]
    weights = torch.softmax(scores.masked_fill(unseen, -1e4), dim=-1, dtype=torch.float32)
    mixed = torch.matmul(weights.to(dtype), query).transpose(1, 2).reshape(8, 16)
    hidden = hidden + functional.linear(functional.silu(mixed) * mixed, table.T.contiguous())
    logits = functional.linear(_normalized(hidden), table).float()
    slots = torch.zeros_like(logits).index_copy_(0, tokens, logits)
    finite = torch.isfinite(slots).all(dim=-1)
    return float((slots.argmax(dim=-1)[finite] + slots[:, 0].norm()).sum())


def _normalized(hidden: torch.Tensor) -> torch.Tensor:
    exact = hidden.float()
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)
    return exact.to(hidden.dtype)


def _rotated(query: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[1, heads, tokens, width] turned by its positions."""
    half = query.shape[-1] // 2
    angles = positions.float()[:, None] @ torch.ones(1, half, device=query.device)
    both = torch.cat((angles, angles), dim=-1)
    turned = torch.cat((-query[..., half:], query[..., :half]), dim=-1)
    return query * both.cos().to(query.dtype) + turned * both.sin().to(query.dtype)
