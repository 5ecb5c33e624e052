"""Putting quantised layers where a causal LM has linear ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from batchgen.counts import counted
from batchgen.engine.experts import NUM_EXPERTS
from batchgen.engine.quantization.float8 import Float8, round_blocks, round_weight
from batchgen.engine.quantization.float8_linear import Float8Linear, fits_float8
from batchgen.engine.quantization.integer_linear import IntegerLinear
from batchgen.engine.quantization.integers import Integers, round_to_integers
from batchgen.engine.quantization.linear import dense_linear
from batchgen.engine.quantization.packing import run_of
from batchgen.engine.quantization.scheme import Scheme

__all__ = ["can_stay", "linear_names", "make_layer", "random_weight", "round_linears"]

_STD = 0.02


def linear_names(module: Any) -> dict[str, tuple[int, int]]:
    """Plain linear layers, by name, with (outputs, inputs): neither the head nor what chooses
    among experts, whose choice keeps the model's own precision."""
    head = module.get_output_embeddings()
    config = module.config.get_text_config()
    experts = {getattr(config, name, None) for name in NUM_EXPERTS}
    return {
        name: (part.out_features, part.in_features)
        for name, part in module.named_modules()
        if type(part) is nn.Linear and part is not head and part.out_features not in experts
    }


def can_stay(shape: tuple[int, ...], scheme: Scheme) -> bool:
    """Whether a weight (outputs, inputs) of this scheme can stay packed, as far as sizes say."""
    if scheme.kind == "float8":
        return fits_float8(shape, scheme.block)
    if scheme.kind != "integer":
        return False
    group = scheme.group_size if scheme.group_size > 0 else shape[-1]
    fits = len(shape) == 2 and shape[1] % group == 0
    return scheme.bits == 4 and fits and run_of(shape[1], group) is not None


def make_layer(
    weight: Float8 | Integers, bias: torch.Tensor | None, dtype: torch.dtype
) -> nn.Module:
    """A quantised layer; a dense one where the groups of inputs do not allow it."""
    try:
        if isinstance(weight, Float8):
            return Float8Linear(weight, bias, dtype)
        return IntegerLinear(weight, bias, dtype)
    except ValueError:
        return dense_linear(weight.dense(dtype), bias)


@torch.no_grad()
def round_linears(module: Any, fetch: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    """Round the linear layers of a dense model to float8, one after the other, where `fetch` brings
    each, so that never more than one is there whole; the notes a user should read."""
    whole = []
    for name, shape in linear_names(module).items():
        part = module.get_submodule(name)
        if not fits_float8(shape, None) or part._forward_hooks or part._forward_pre_hooks:
            whole.append(name)
            continue
        weight = round_weight(fetch(part.weight.detach()))
        module.set_submodule(name, make_layer(weight, part.bias, part.weight.dtype))
    notes = ["linear layers are in float8, a scale for each output; the head keeps its dtype"]
    if whole:
        notes.append(f"{counted(len(whole), 'linear layer')} are not rounded: {whole[0]}, ...")
    return notes


def random_weight(
    shape: tuple[int, int], scheme: Scheme, dtype: torch.dtype, device: torch.device
) -> Float8 | Integers:
    """As a checkpoint of the scheme might hold it: for benchmarks."""
    weight = torch.empty(shape, dtype=dtype, device=device).normal_(std=_STD)
    if scheme.kind == "float8":
        return round_weight(weight) if scheme.block is None else round_blocks(weight, scheme.block)
    group = scheme.group_size if scheme.group_size > 0 else shape[1]
    return round_to_integers(weight, group, scheme.bits)
