"""Compile the decoder layers: once, and that one compilation serves every layer and every length.

Two things make it so. Attention becomes one opaque operator, told apart by a tensor that the layer
owns, so that nothing specialises on the layer; and the number of tokens is symbolic. What lies
outside the layers (embedding, last norm, head) runs as it is.
"""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from batchgen.engine.last_layer.layer import LastLayer
from batchgen.engine.model.binding import CALL_ATTRIBUTE, AttentionCall
from batchgen.engine.model.model import Model

__all__ = ["OpaqueCall", "compile_layers", "uncompile_layers"]

logger = logging.getLogger(__name__)


class OpaqueCall:
    """An attention call as one operator of the compiled graph."""

    def __init__(self, call: AttentionCall, number: int) -> None:
        self.call = call
        self.number = torch.tensor(number)  # int64 [], on the host: reading it waits for nothing

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None) -> Tensor:
        """Attend over the paged cache; shapes as `AttentionBackend.forward`."""
        out: Tensor = _attend(query, key, value, sinks, self.number)
        return out


_calls: WeakValueDictionary[int, OpaqueCall] = WeakValueDictionary()
"""The operator gets tensors alone, so this is how it finds its call again; freed with the model."""


@torch.library.custom_op("batchgen::attend", mutates_args=())
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    number: torch.Tensor,
) -> torch.Tensor:
    return _calls[int(number)].call(query, key, value, sinks)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, *_: object) -> Tensor:
    """The answer's form."""
    return query.new_empty(query.shape[0], query.shape[1], value.shape[2])


def compile_layers(model: Model, options: dict[str, Any] | None = None) -> int:
    """Compile every layer of the stacks that attend; returns how many. `options`: inductor's.

    A model that attends several times in one module keeps its layers as they are: their cursor is
    state that compiled code would not see.
    """
    if model.cursors:
        logger.info("layers are not compiled: a module of this model attends several times")
        return 0
    layers = _attending_layers(model.module)
    for number, call in enumerate(model.calls, start=_next_number()):
        holder = _holder(model.module, call)
        opaque = OpaqueCall(call, number)
        _calls[number] = opaque
        setattr(holder, CALL_ATTRIBUTE, opaque)
    for layer in layers:
        last = layer._compiled_call_impl
        layer.compile(dynamic=True, options=options)
        if isinstance(last, LastLayer):  # its first call is of few operators: not worth compiling
            last.run = layer._compiled_call_impl
            layer._compiled_call_impl = last
    return len(layers)


def uncompile_layers(model: Model) -> None:
    """Let every layer run as it is again."""
    for layer in _attending_layers(model.module):
        layer._compiled_call_impl = None  # the last one answers for all tokens again
    model.ends_alone = False
    torch.compiler.reset()


def _next_number() -> int:
    return max(_calls, default=-1) + 1


def _holder(module: nn.Module, call: AttentionCall) -> nn.Module:
    return next(part for part in module.modules() if getattr(part, CALL_ATTRIBUTE, None) is call)


def _attending_layers(module: nn.Module) -> list[Any]:
    """The items of every module list whose items attend."""
    return [
        layer
        for stack in module.modules()
        if isinstance(stack, nn.ModuleList)
        for layer in stack
        if any(hasattr(part, CALL_ATTRIBUTE) for part in layer.modules())
    ]
