"""Rotary embeddings on the CPU in one pass: a model's own `apply_rotary_pos_emb`, made faster.

An attention module's forward is rebuilt with that one name bound to the fast function, for the
instance alone; nothing in transformers is changed. Other conventions (interleaved pairs, other
argument orders) answer differently on the probe and keep their own function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from batchgen.engine.kernels.ops import Operators

__all__ = ["fast_rope_forward"]

_NAME = "apply_rotary_pos_emb"
_DTYPES = (torch.float32, torch.bfloat16)
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}

Rope = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fast_rope_forward(module: nn.Module, known: dict[int, Rope | None]) -> MethodType | None:
    """The module's forward with fast rotary embeddings, or None where that is not possible.

    `known` remembers the verdict on each function between calls.
    """
    # transformers 5.24 wraps it, to rename an argument that an engine does not pass.
    forward: Any = inspect.unwrap(type(module).forward)
    if not isinstance(forward, FunctionType) or _NAME not in forward.__code__.co_names:
        return None
    original = forward.__globals__.get(_NAME)
    if original is None or "forward" in module.__dict__:
        return None
    if id(original) not in known:
        known[id(original)] = _fast(original)
    fast = known[id(original)]
    if fast is None:
        return None
    rebuilt = FunctionType(
        forward.__code__,
        {**forward.__globals__, _NAME: fast},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    rebuilt.__kwdefaults__ = forward.__kwdefaults__
    return MethodType(rebuilt, module)


def _fast(original: Rope) -> Rope | None:
    operators = Operators.load()
    if operators is None:
        return None
    rope = operators.rope

    def apply_rotary_pos_emb(
        q: torch.Tensor,  # [1, num_heads, num_tokens, size]
        k: torch.Tensor,
        cos: torch.Tensor,  # [1, num_tokens, size]
        sin: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if args or kwargs or not (_fits(q, cos, sin) and _fits(k, cos, sin)):
            return original(q, k, cos, sin, *args, **kwargs)
        return rope(q, cos, sin), rope(k, cos, sin)

    return apply_rotary_pos_emb if _equal(original, apply_rotary_pos_emb) else None


def _fits(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """What the C loop takes: one packed row, whole heads rotated, dense last dimensions."""
    if x.dim() != 4 or x.shape[0] != 1 or x.stride(3) != 1 or x.dtype not in _DTYPES:
        return False
    if cos.shape != (1, x.shape[2], x.shape[3]) or sin.shape != cos.shape:
        return False
    return bool(
        cos.dtype == x.dtype == sin.dtype
        and cos.stride() == sin.stride()
        and cos.stride(2) == 1
        and x.shape[3] % 2 == 0
    )


def _equal(original: Rope, fast: Rope) -> bool:
    generator = torch.Generator().manual_seed(0)
    for dtype in _DTYPES:
        q, k = (torch.randn(1, h, 5, 48, generator=generator).to(dtype) for h in (4, 2))
        cos, sin = (torch.randn(1, 5, 48, generator=generator).to(dtype) for _ in range(2))
        try:
            expected = original(q, k, cos, sin)
        except (TypeError, RuntimeError, ValueError):
            return False
        for a, b in zip(fast(q, k, cos, sin), expected, strict=True):
            if a.shape != b.shape or not (a.float() - b.float()).abs().max() <= _TOLERANCE[dtype]:
                return False
    return True
