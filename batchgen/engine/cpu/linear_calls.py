"""The linear layers that a small forward calls, and which of them share an input (q, k, v).

Only plain layers count: quantised weights, adapters and hooks hide behind nn.Linear too, and there
the values of `weight` are not what the layer multiplies with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.packed.layers import PackedLayer

__all__ = ["LinearCall", "is_layer", "is_packed", "is_plain", "record_calls", "siblings"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class LinearCall:
    """One call of a plain linear layer."""

    name: str
    """Dotted, in the model; the parent's name is all but the last part."""
    module: Any
    input: int
    """Calls one after the other with the very same tensor have the same number."""

    @property
    def parent(self) -> str:
        """The name of the module that holds the layer."""
        return self.name.rpartition(".")[0]


def is_plain(module: nn.Module) -> bool:
    """Whether the layer is x weight^T + bias, of ordinary tensors, and nothing else."""
    if type(module) is not nn.Linear and type(module) is not Conv1D:
        return False
    if not _is_bare(module):
        return False
    own = module._parameters
    ordinary = all(type(part) is nn.Parameter for part in own.values() if part is not None)
    weight = own.get("weight")
    if weight is None or not weight.numel():  # no shared experts: a layer of no outputs
        return False
    return ordinary and weight.dtype in _DTYPES


def is_packed(module: nn.Module) -> bool:
    """Whether the layer computes with a GGUF file's blocks, and nothing else."""
    return type(module) is PackedLayer and _is_bare(module)


def is_layer(module: nn.Module) -> bool:
    """Whether it is either of the two."""
    return is_plain(module) or is_packed(module)


def _is_bare(module: nn.Module) -> bool:
    """Whether its class alone says what it computes."""
    own = "forward" in module.__dict__ or module._forward_hooks or module._forward_pre_hooks
    return not own


def record_calls(
    model: nn.Module,
    run: Callable[[], object],
    accepts: Callable[[nn.Module], bool] = is_plain,
) -> list[LinearCall]:
    """The layers that `run`, a small forward of the model, calls, in order: plain ones, or those
    that it `accepts`."""
    calls: list[LinearCall] = []
    held: list[Any] = [None]  # the last input, so that its identity stays its own

    def note(module: nn.Module, args: Any) -> None:
        if args:
            number = calls[-1].input if calls else 0
            number += args[0] is not held[0]
            held[0] = args[0]
            calls.append(LinearCall(names[module], module, number))

    names = {module: name for name, module in model.named_modules() if accepts(module)}
    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def siblings(
    calls: Sequence[LinearCall], alike: Callable[[Any, Any], bool] = lambda first, other: True
) -> list[list[LinearCall]]:
    """Layers of one parent, called once each, one after the other, with the very same tensor; all
    of a group are `alike`."""
    times = Counter(call.name for call in calls)
    groups: list[list[LinearCall]] = []
    for call in calls:
        if times[call.name] != 1:
            continue
        last = groups[-1][-1] if groups else None
        shares = last is not None and last.parent == call.parent and last.input == call.input
        if shares and alike(groups[-1][0].module, call.module):
            groups[-1].append(call)
        else:
            groups.append([call])
    return [group for group in groups if len(group) > 1]
