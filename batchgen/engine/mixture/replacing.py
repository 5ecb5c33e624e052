"""Replaces a loaded model's MoE modules by `Experts`, where that is proven to be equal."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from batchgen.counts import counted
from batchgen.engine.experts import expert_share
from batchgen.engine.mixture.form import Gate, Sizes, find_gate, sizes_of
from batchgen.engine.mixture.layer import Experts
from batchgen.engine.mixture.proof import ERRORS, FEW, ROUNDED_ERROR, Asked, disproof, many
from batchgen.engine.mixture.quantized import QuantizedExperts
from batchgen.engine.mixture.rounded import fits_rounding, round_experts_of
from batchgen.engine.mixture.router import Router
from batchgen.engine.mixture.router_proof import (
    LARGEST,
    ROUTED,
    SHARE_ERRORS,
    disprove_router,
    find_router,
)

__all__ = ["chosen_of", "has_experts", "replace_experts", "replace_routers", "round_experts"]

_logger = logging.getLogger(__name__)
Make = Callable[[Any, Sizes, Gate, Asked, tuple[int, ...]], nn.Module | str]
"""What a module with experts becomes, or why it does not; it is asked for so many rows."""


def has_experts(module: nn.Module) -> bool:
    """Whether any layer is one of ours."""
    return any(isinstance(part, Experts | QuantizedExperts) for part in module.modules())


def replace_experts(module: Any) -> int:
    """In place; returns how many. A module that is not recognised or not proven stays as it is, and
    the log says so."""
    count, reasons = _replace(module, _grouped)
    if count:
        _logger.info("%s of experts multiplied in groups, proven", counted(count, "layer"))
    if reasons:
        layers, name = counted(len(reasons), "layer"), min(reasons)
        _logger.info("%s of experts as transformers runs them: %s: %s", layers, name, reasons[name])
    return count


def round_experts(module: Any, fetch: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    """Experts in float8, in place, one after the other, where `fetch` brings each; the notes a user
    should read."""

    def rounded(
        part: Any, sizes: Sizes, gate: Gate, asked: Asked, counts: tuple[int, ...]
    ) -> nn.Module | str:
        if not fits_rounding(sizes):
            return "its sizes are no multiples of 16"
        layer = round_experts_of(part, sizes, gate, fetch).eval()
        asked = replace(asked, device=layer.down.device)
        return disproof(layer, layer.oracle, asked, counts, ROUNDED_ERROR) or layer

    count, reasons = _replace(module, rounded)
    notes = [f"{counted(count, 'layer')} of experts are in float8, too"] if count else []
    if reasons:
        layers, name = counted(len(reasons), "layer"), min(reasons)
        notes.append(f"{layers} of experts are not rounded: {name}: {reasons[name]}")
    return notes


def _grouped(
    part: Any, sizes: Sizes, gate: Gate, asked: Asked, counts: tuple[int, ...]
) -> nn.Module | str:
    layer = Experts(part, sizes, gate).eval()
    return disproof(layer, part, asked, counts, ERRORS[asked.dtype]) or layer


def _replace(module: Any, make: Make) -> tuple[int, dict[str, str]]:
    """How many became something else, and why the others did not."""
    known: set[Sizes] = set()
    reasons: dict[str, str] = {}
    count = 0
    for name, part in list(module.named_modules()):
        sizes = sizes_of(part)
        if sizes is None:
            continue
        num_chosen = chosen_of(module, sizes)
        counts = FEW if sizes in known else many(sizes.num_experts, num_chosen)
        known.add(sizes)
        made = _made(part, sizes, num_chosen, counts, make)
        if isinstance(made, str):
            reasons[name] = made
        else:
            module.set_submodule(name, made)
            count += 1
    return count, reasons


def chosen_of(module: Any, sizes: Sizes) -> int:
    """Experts of a token, by the model's config."""
    config = module.config.get_text_config()
    share = expert_share(lambda name: getattr(config, name, None))
    return max(1, round(share * sizes.num_experts))


def _made(
    part: Any, sizes: Sizes, num_chosen: int, counts: tuple[int, ...], make: Make
) -> nn.Module | str:
    weight, gate = part.down_proj, find_gate(part)
    if gate is None:
        return "what it does with gates is not known"
    if part._forward_hooks or part._forward_pre_hooks:
        return "it has hooks"
    if weight.dtype not in ERRORS or type(weight) is not nn.Parameter:
        return "its weights are of another kind"
    asked = Asked(sizes.num_experts, num_chosen, sizes.hidden, weight.dtype, weight.device)
    return make(part, sizes, gate, asked, counts)


def replace_routers(module: Any) -> int:
    """In place; returns how many. What is not recognised or not proven stays as it is, and the log
    says so."""
    count, reasons = 0, {}
    known: set[str] = set()
    for block, part in list(module.named_modules()):
        num_experts = _experts_within(part)
        if num_experts is None:
            continue
        name, router = _router_within(part, num_experts)
        made = _chosen(router, module.dtype, known) if router is not None else "it has no router"
        if isinstance(made, str):
            reasons[f"{block}.{name}" if name else block] = made
        else:
            part.set_submodule(name, made)
            count += 1
    if count:
        _logger.info(
            "%s in one kernel, proven", counted(count, "choice of experts", "choices of experts")
        )
    if reasons:
        routers, name = counted(len(reasons), "router"), min(reasons)
        _logger.info("%s as transformers runs them: %s: %s", routers, name, reasons[name])
    return count


def _experts_within(block: nn.Module) -> int | None:
    """How many are of the layer of experts that the module holds itself."""
    for part in block.children():
        if isinstance(part, QuantizedExperts):
            return part.num_experts
        sizes = sizes_of(part)
        if sizes is not None:
            return sizes.num_experts
    return None


def _router_within(block: nn.Module, num_experts: int) -> tuple[str, nn.Module | None]:
    for name, part in block.named_children():
        weight = getattr(part, "weight", None)
        if type(weight) is nn.Parameter and weight.ndim == 2 and len(weight) == num_experts:
            return name, part
    return "", None


def _chosen(router: Any, dtype: torch.dtype, known: set[str]) -> Router | str:
    """What the router becomes, or why it does not. `known`: choices that were proven for all
    numbers of rows."""
    if router._forward_hooks or router._forward_pre_hooks:
        return "it has hooks"
    if len(inspect.signature(router.forward).parameters) != 1:
        return "it is given more than rows"
    if dtype not in SHARE_ERRORS or len(router.weight) > min(LARGEST, router.weight.shape[1]):
        return "it is of another size or dtype"
    made = find_router(router, dtype, known)
    if made is None:
        return "how it chooses is not known"
    counts = ROUTED[1:2] if made.choice_text in known else ROUTED
    fault = disprove_router(made, router, dtype, counts)
    if fault is None:
        known.add(made.choice_text)
    return fault or made
