"""Makes a loaded model fast on the CPU without touching its code.

Linear layers, norms and gated MLPs keep their modules; only the `forward` bound to each instance
is replaced, after it was compared with the module's own. What cannot be proven equal stays as it
was. Packed layers give up their own weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.cpu_mlp import fast_gated_mlp
from batchgen.engine.cpu_norm import fast_rms_norm
from batchgen.engine.cpu_rope import fast_rope_forward
from batchgen.engine.int8_linear import pack_int8
from batchgen.engine.linear import JoinedLinear, LinearFunction, pack_weight

__all__ = ["optimize_for_cpu"]

_LOG = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.bfloat16)

Pack = Callable[[torch.Tensor, torch.Tensor | None], LinearFunction | None]
"""Weight [num_outputs, num_inputs] and bias to the layer's function, None when it cannot."""


@torch.inference_mode()
def optimize_for_cpu(model: nn.Module, dtype: torch.dtype, quantization: str | None = None) -> None:
    """Bind faster forwards to the parts of a causal LM on the CPU, in place.

    `quantization="int8"` packs linear layers, the last one excepted, in 8 bits: other numbers.
    """
    if dtype not in _DTYPES:
        return
    siblings = _siblings(model)
    counts = {"mlp": 0, "norm": 0, "rope": 0, "joined": 0, "linear": 0}
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if quantization is not None and _packable(head):
        _bind_linear(head, pack_weight)  # the choice of a token keeps the model's own precision
    pack = pack_weight if quantization is None else pack_int8
    _bind_mlps(model, pack, counts)
    _bind_joined(siblings, pack, counts)
    for module in model.modules():
        if _packable(module):
            counts["linear"] += _bind_linear(module, pack)
    _bind_norms(model, counts)
    _bind_ropes(model, counts)
    _LOG.info("CPU: %s", ", ".join(f"{count} {name}" for name, count in counts.items()))


def _packable(module: nn.Module) -> bool:
    if type(module) is not nn.Linear and type(module) is not Conv1D:
        return False
    return "forward" not in module.__dict__ and module.weight.dtype in _DTYPES


def _weight(module: Any) -> torch.Tensor:
    """[num_outputs, num_inputs]; GPT-2's Conv1D keeps the transpose."""
    weight: torch.Tensor = module.weight.t() if type(module) is Conv1D else module.weight
    return weight


def _pack(modules: Sequence[Any], pack: Pack) -> LinearFunction | None:
    """Layers of one input as one product."""
    weight = torch.cat([_weight(module) for module in modules])
    biases = [module.bias for module in modules]
    if all(bias is None for bias in biases):
        return pack(weight, None)
    parts = [
        torch.zeros(_weight(module).shape[0], dtype=weight.dtype) if bias is None else bias
        for module, bias in zip(modules, biases, strict=True)
    ]
    return pack(weight, torch.cat(parts))


def _bind(module: Any, forward: LinearFunction) -> None:
    module.forward = forward


def _release(module: Any) -> None:
    """Drop a packed layer's own weight; shape, dtype and device can still be asked for."""
    hollow = torch.zeros((), dtype=module.weight.dtype).expand(module.weight.shape)
    module.weight = nn.Parameter(hollow, requires_grad=False)


def _siblings(model: nn.Module) -> list[list[nn.Module]]:
    """Linear layers of one parent that were given the very same tensor, by one small forward."""
    seen: list[tuple[nn.Module, nn.Module, torch.Tensor]] = []
    handles = []
    for parent in model.modules():
        for module in parent.children():
            if _packable(module):

                def note(
                    _: nn.Module, args: Any, module: Any = module, parent: Any = parent
                ) -> None:
                    if args:
                        seen.append((parent, module, args[0]))

                handles.append(module.register_forward_pre_hook(note))
    try:
        model(input_ids=torch.tensor([[1, 2, 3, 4]]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return [group for group in _groups(seen) if len(group) > 1]


def _groups(seen: list[tuple[nn.Module, nn.Module, torch.Tensor]]) -> Iterator[list[nn.Module]]:
    """Runs of calls with one parent and one input; layers called more than once are left out."""
    calls: dict[int, int] = {}
    for _, module, _ in seen:
        calls[id(module)] = calls.get(id(module), 0) + 1
    group: list[nn.Module] = []
    last: tuple[nn.Module, torch.Tensor] | None = None
    for parent, module, x in seen:
        if last is None or last[0] is not parent or last[1] is not x:
            yield group
            group, last = [], (parent, x)
        if calls[id(module)] == 1:
            group.append(module)
    yield group


def _bind_mlps(model: nn.Module, pack: Pack, counts: dict[str, int]) -> None:
    for module in model.modules():
        found = fast_gated_mlp(module, lambda layers: _pack(layers, pack), pack is pack_weight)
        if found is not None:
            forward, layers = found
            _bind(module, forward)
            for layer in layers:
                _bind(layer, _unreachable)
                _release(layer)
            counts["mlp"] += 1


def _unreachable(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("this layer is part of a joined MLP and has no weight of its own")


def _bind_joined(siblings: list[list[nn.Module]], pack: Pack, counts: dict[str, int]) -> None:
    for group in siblings:
        if not all(_packable(module) for module in group):
            continue
        function = _pack(group, pack)
        if function is None:
            continue
        joined = JoinedLinear(function, [_weight(module).shape[0] for module in group])
        for index, module in enumerate(group):
            _bind(module, joined.member(index))
            _release(module)
        counts["joined"] += 1


def _bind_linear(module: Any, pack: Pack) -> bool:
    function = _pack([module], pack)
    if function is not None:
        _bind(module, function)
        _release(module)
    return function is not None


def _bind_norms(model: nn.Module, counts: dict[str, int]) -> None:
    for module in model.modules():
        forward = fast_rms_norm(module)
        if forward is not None:
            _bind(module, forward)
            counts["norm"] += 1


def _bind_ropes(model: nn.Module, counts: dict[str, int]) -> None:
    known: dict[int, Any] = {}
    for module in model.modules():
        forward = fast_rope_forward(module, known)
        if forward is not None:
            _bind(module, forward)
            counts["rope"] += 1
