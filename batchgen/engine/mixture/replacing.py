"""Puts layers of experts in the place of a loaded model's modules, where they are proven."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from batchgen.counts import counted
from batchgen.engine.experts import expert_share
from batchgen.engine.mixture.form import Sizes, find_gate, sizes_of
from batchgen.engine.mixture.layer import Experts
from batchgen.engine.mixture.proof import FEW, disproof, many

__all__ = ["has_experts", "replace_experts"]

_logger = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def has_experts(module: nn.Module) -> bool:
    """Whether any layer is one of ours."""
    return any(isinstance(part, Experts) for part in module.modules())


def replace_experts(module: Any) -> int:
    """In place; returns how many. What is not known or not proven stays as it is, with a word."""
    config = module.config.get_text_config()
    share = expert_share(lambda name: getattr(config, name, None))
    known: set[Sizes] = set()
    reasons: dict[str, str] = {}
    count = 0
    for name, part in list(module.named_modules()):
        sizes = sizes_of(part)
        if sizes is None:
            continue
        reason = _replace(module, name, max(1, round(share * sizes.num_experts)), sizes in known)
        known.add(sizes)
        if reason is None:
            count += 1
        else:
            reasons[name] = reason
    _say(count, reasons)
    return count


def _replace(module: Any, name: str, num_chosen: int, known: bool) -> str | None:
    """None, or why the module stays."""
    part: Any = module.get_submodule(name)
    sizes, gate = sizes_of(part), find_gate(part)
    assert sizes is not None
    if gate is None:
        return "what it does with gates is not known"
    if part._forward_hooks or part._forward_pre_hooks or part.gate_up_proj.dtype not in _DTYPES:
        return "it has hooks, or weights of another kind"
    layer = Experts(part, sizes, gate).eval()
    counts = FEW if known else many(sizes.num_experts, num_chosen)
    reason = disproof(layer, part, num_chosen, counts)
    if reason is None:
        module.set_submodule(name, layer)
    return reason


def _say(count: int, reasons: dict[str, str]) -> None:
    if count:
        _logger.info("%s multiplied in groups, proven", counted(count, "layer") + " of experts")
    if reasons:
        many, name = counted(len(reasons), "layer"), min(reasons)
        _logger.info("%s of experts as transformers runs them: %s: %s", many, name, reasons[name])
