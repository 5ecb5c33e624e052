"""Makes a loaded model fast on the CPU without touching its code.

Linear layers, norms and gated MLPs keep their modules; only the `forward` bound to each instance
is replaced, after it was compared with the module's own. What cannot be proven equal stays as it
was. Packed layers give up their own weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from batchgen.engine.cpu.block_linear import BlockRows, block_rows, pack_ends, pack_q4
from batchgen.engine.cpu.int8_linear import Int8Rows, int8_rows, pack_int8
from batchgen.engine.cpu.linear import (
    JoinedLinear,
    JoinedMember,
    LinearFunction,
    pack_steady,
    pack_weight,
)
from batchgen.engine.cpu.linear_calls import LinearCall, is_layer, is_packed, record_calls, siblings
from batchgen.engine.cpu.mlp import fast_gated_mlp
from batchgen.engine.cpu.norm import fast_rms_norm
from batchgen.engine.cpu.rope import fast_rope_forward
from batchgen.engine.packed.layers import hollow
from batchgen.engine.packed.product import join_products

__all__ = ["optimize_for_cpu", "pack_layers"]

_LOG = logging.getLogger(__name__)
_DTYPES = (torch.float32, torch.bfloat16)
_PROBE_TOKENS = 32

Rows = Int8Rows | BlockRows
Pack = Callable[[torch.Tensor, torch.Tensor | None], LinearFunction | None]
"""Weight [num_outputs, num_inputs] and bias to the layer's function, None when it cannot."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How weights are rounded. `ends`: the head's, and those of `rows`, an embedding's."""

    pack: Pack
    ends: Pack
    rows: Callable[[Any, torch.dtype], Rows | None]
    """The embedding over what `ends` packed; None where that cannot be."""


_EXACT = (pack_weight, pack_steady)
_SCHEMES = {
    "int8": _Scheme(pack_int8, pack_int8, int8_rows),
    "q4": _Scheme(pack_q4, pack_ends, block_rows),
}


@torch.inference_mode()
def optimize_for_cpu(
    model: nn.Module,
    dtype: torch.dtype,
    quantization: str | None = None,
    *,
    steady: bool = False,
) -> int:
    """Bind faster forwards to the parts of a causal LM on the CPU, in place.

    `quantization`: a name of `_SCHEMES`, by which linear layers, and where it can be the head and
    the embedding, are rounded: other numbers.
    `steady`: by kernels whose sums do not depend on the number of rows, or not at all.
    Layers that a small forward does not call stay as they are: their weights may be read directly.
    Returns how many parts now compute with packed weights.
    """
    if dtype not in _DTYPES:
        return 0
    calls = record_calls(model, lambda: _small_forward(model), is_layer)
    called = {id(call.module) for call in calls}
    pack: Pack = pack_steady if steady else pack_weight
    if quantization is not None:
        pack = _SCHEMES[quantization].pack
        _bind_ends(model, _SCHEMES[quantization])
    counts = {
        "mlp": _bind_mlps(model, called, pack),
        "joined": sum(_bind_joined(group, pack) for group in siblings(calls)),
        "linear": sum(
            _bind_linear(module, pack)
            for module in model.modules()
            if id(module) in called and _packable(module)
        ),
        "norm": _bind_norms(model),
        "rope": _bind_ropes(model),
    }
    _LOG.info("CPU: %s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts["mlp"] + counts["joined"] + counts["linear"]


def pack_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Pack these plain layers, each for itself, whatever hooks they have: those still run."""
    for name in names:
        module: Any = model.get_submodule(name)
        if "forward" not in module.__dict__ and module.weight.dtype in _DTYPES:
            _bind_linear(module, pack_weight)


def _packable(module: Any) -> bool:
    return is_layer(module) and module.weight.dtype in _DTYPES


def _small_forward(model: nn.Module) -> None:
    vocabulary: Any = model.get_input_embeddings()  # type: ignore[operator]
    ids = torch.arange(1, min(_PROBE_TOKENS, vocabulary.weight.shape[0]))[None]
    # All at the first position: past its last one a model fails, or takes other RoPE from then on.
    model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False)


def _weight(module: Any) -> torch.Tensor:
    """[num_outputs, num_inputs]; GPT-2's Conv1D keeps the transpose."""
    weight: torch.Tensor = module.weight.t() if type(module) is Conv1D else module.weight
    return weight


def _pack(modules: Sequence[Any], pack: Pack) -> LinearFunction | None:
    """Layers of one input as one product."""
    if any(is_packed(module) for module in modules):
        return _joined(modules)
    weight = torch.cat([_weight(module) for module in modules])
    biases = [module.bias for module in modules]
    if all(bias is None for bias in biases):
        return pack(weight, None)
    parts = [
        torch.zeros(_weight(module).shape[0], dtype=weight.dtype) if bias is None else bias
        for module, bias in zip(modules, biases, strict=True)
    ]
    return pack(weight, torch.cat(parts))


def _joined(modules: Sequence[Any]) -> LinearFunction | None:
    """Of layers that keep a GGUF file's blocks, all of them."""
    if not all(is_packed(module) and module.product.kernels is not None for module in modules):
        return None
    return join_products([module.product for module in modules])


def _bind(module: Any, forward: LinearFunction) -> None:
    module.forward = forward


def _release(module: Any) -> None:
    """Drop a packed layer's own weight. Shape, dtype and device can still be asked for; values are
    NaN, so that code which reads them fails loudly."""
    module.weight = hollow(module.weight)


def _bind_mlps(model: nn.Module, called: set[int], pack: Pack) -> int:
    count = 0
    for module in model.modules():
        found = fast_gated_mlp(module, lambda layers: _pack(layers, pack), pack in _EXACT)
        if found is None or not all(id(layer) in called for layer in found[1]):
            continue
        forward, layers = found
        _bind(module, forward)
        for layer in layers:
            _bind(layer, _unreachable)
            _release(layer)
        count += 1
    return count


def _unreachable(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("this layer is part of a joined MLP and has no weight of its own")


def _bind_joined(group: Sequence[LinearCall], pack: Pack) -> bool:
    modules = [call.module for call in group]
    if not all(_packable(module) for module in modules):
        return False
    function = _pack(modules, pack)
    if function is None:
        return False
    joined = JoinedLinear(function, [_weight(module).shape[0] for module in modules])
    for index, module in enumerate(modules):
        _bind(module, JoinedMember(joined, index))
        _release(module)
    return True


def _bind_ends(model: nn.Module, scheme: _Scheme) -> None:
    """The head and the embedding in 8 bits, once where they are tied; where the project's own
    kernel cannot, they keep the model's precision."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    tied = getattr(head, "weight", None) is embedding.weight
    plain = type(embedding) is nn.Embedding and "forward" not in embedding.__dict__
    shared = scheme.ends(embedding.weight, None) if plain else None
    rows = scheme.rows(shared, embedding.weight.dtype)
    rows = rows if rows is not None and rows.equals(embedding.weight) else None
    if rows is not None:
        _bind(embedding, rows)
    if not _packable(head):
        return
    whole = shared if tied and head.bias is None else _pack([head], scheme.ends)
    if whole is not None and scheme.rows(whole, head.weight.dtype) is not None:
        _bind(head, whole)
        _release(head)
    else:
        _bind_linear(head, pack_weight)
    if rows is not None:
        _release(embedding)


def _bind_linear(module: Any, pack: Pack) -> bool:
    function = _pack([module], pack)
    if function is not None:
        _bind(module, function)
        _release(module)
    return function is not None


def _bind_norms(model: nn.Module) -> int:
    count = 0
    for module in model.modules():
        forward = fast_rms_norm(module)
        if forward is not None:
            _bind(module, forward)
            count += 1
    return count


def _bind_ropes(model: nn.Module) -> int:
    known: dict[int, Any] = {}
    count = 0
    for module in model.modules():
        forward = fast_rope_forward(module, known)
        if forward is not None:
            _bind(module, forward)
            count += 1
    return count
