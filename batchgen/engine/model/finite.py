"""Logits that are no numbers, and which weight or dtype is to blame."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from batchgen.errors import ModelRefusedError

__all__ = ["check_finite", "not_finite"]

_WIDER = "take --dtype bfloat16 or float32, which hold larger numbers"


def check_finite(module: nn.Module, model_type: str, logits: Iterable[torch.Tensor]) -> None:
    """Raises ModelRefusedError where the model's own logits are NaN or infinite."""
    if not all(bool(one.isfinite().all()) for one in logits):
        raise not_finite(module, model_type)


def not_finite(module: nn.Module, model_type: str) -> ModelRefusedError:
    """The error to raise for a model whose own logits are NaN or infinite."""
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    broken = (name for name, one in module.named_parameters() if not one.float().isfinite().all())
    name = next(broken, None)
    why = f"they overflow in {dtype}" if name is None else f"nor is its weight {name!r} in {dtype}"
    damaged = "its weights are damaged: fetch it again, or name the weights it was made from"
    return ModelRefusedError(
        f"model type {model_type!r} cannot be served: its logits are not finite (NaN or infinity): "
        f"{why}",
        _WIDER if dtype == "float16" else damaged,
    )
