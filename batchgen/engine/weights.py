"""What a model weighs, as it was loaded: what a step reads, and what a token is multiplied with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.experts import expert_share

__all__ = ["HELD_BYTES", "Weights", "hollow_values", "weigh"]

HELD_BYTES = "held_bytes"
"""Attribute of a parameter that is a form alone: the bytes of what stands for it."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tables that are only looked up (embeddings of tokens and places) count in no number."""

    active_parameters: int
    """Of a layer of experts, those that a token is sent to."""
    layer_parameters: int
    """Of linear layers, the last one excepted: what `--quantization` makes smaller."""
    num_bytes: int
    """Read by a step of many tokens, experts whole."""


def hollow_values(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor that takes no memory, on the CPU: all NaN, so that code which reads it fails
    loudly."""
    return torch.full((), torch.nan, dtype=dtype).expand(shape)


def weigh(module: Any) -> Weights:
    """Count the parameters of a causal LM before anything is packed or released."""
    head = module.get_output_embeddings().weight
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    config = module.config.get_text_config()
    share = expert_share(lambda name: getattr(config, name, None))  # they lie in 3-D parameters
    active = layers = num_bytes = 0
    packed = [part for part in module.modules() if hasattr(part, "num_weights")]
    for part in packed:
        of_experts = hasattr(part, "num_experts")
        active += int(part.num_weights * (share if of_experts else 1))
        layers += 0 if of_experts else part.num_weights
        num_bytes += sum(one.nbytes for one in part.parameters())
    inside = {id(one) for part in packed for one in part.parameters()}
    for parameter in module.parameters():
        if id(parameter) in inside:
            continue
        if id(parameter) in tables and parameter is not head:
            continue
        count = _count(parameter)
        active += int(count * (share if parameter.ndim == 3 else 1))
        layers += count if parameter.ndim == 2 and parameter is not head else 0
        num_bytes += _bytes(parameter)
    return Weights(active, layers, num_bytes)


def _count(parameter: Any) -> int:
    """Numbers that it stands for: 4-bit layers of bitsandbytes pack two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def _bytes(parameter: torch.Tensor) -> int:
    """Of the tensors inside, for tensor classes that hold packed numbers and their scales; of what
    a parameter stands for, where it says so."""
    held: int | None = getattr(parameter, HELD_BYTES, None)
    if held is not None:
        return held
    flatten = getattr(parameter, "__tensor_flatten__", None)
    if flatten is None:
        return parameter.nbytes
    return sum(_bytes(getattr(parameter, name)) for name in flatten()[0])
