"""Recognises a decoder layer of Llama's shape by the fast parts that were bound to its modules.

Each part was compared with the module it stands in for; what is between them is read off the
names: the children of the layer, and everything that the attention's forward may look up.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.cpu.linear import JoinedMember, PackedLinear
from batchgen.engine.cpu.mlp import GatedMlp
from batchgen.engine.cpu.norm import RmsNorm
from batchgen.engine.kernels.ops import Weight, WeightKind
from batchgen.engine.model.binding import CALL_ATTRIBUTE, AttentionCall
from batchgen.engine.packed.product import PackedProduct

__all__ = ["LayerParts", "layer_parts"]

_LAYER_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
_HEAD_NORMS = {"q_norm", "k_norm"}
_LOOKED_UP = """ALL_ATTENTION_FUNCTIONS _attn_implementation apply_rotary_pos_emb attention_dropout
    config contiguous eager_attention_forward get_interface getattr head_dim k_norm k_proj layer_idx
    o_proj q_norm q_proj reshape scaling shape sliding_window training transpose update v_proj view
"""
"""What the attention of Llama, Mistral, Qwen2 and Qwen3 looks up: anything else may be arithmetic
that a few tokens would not show (scales that begin at a long distance)."""


class Block(ctypes.Structure):
    """`Block` of kernels/stack.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, Weight) for name in ("qkv", "o", "gate_up", "down")),
        *((f"{name}_eps", ctypes.c_double) for name in ("input", "post", "q", "k")),
        *((f"{name}_round", ctypes.c_int64) for name in ("input", "post", "q", "k")),
    )


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One decoder layer; `held` keeps alive what `block` points to."""

    module: nn.Module
    call: AttentionCall
    hidden: int
    intermediate: int
    block: Block
    held: tuple[Any, ...]
    rounds: bool
    """Whether a product rounds its rows: an unlike last bit before it can be a level after it."""


def layer_parts(layer: nn.Module, dtype: torch.dtype) -> LayerParts | None:
    """The parts of a layer, or None when it is of another shape or not all of it is fast."""
    children = dict(layer.named_children())
    if children.keys() != _LAYER_CHILDREN or _hooked(layer):
        return None
    attention = children["self_attn"]
    call = getattr(attention, CALL_ATTRIBUTE, None)
    if not isinstance(call, AttentionCall) or not _plain_attention(attention):
        return None
    norms = [_norm(children["input_layernorm"], dtype)]
    norms.append(_norm(children["post_attention_layernorm"], dtype))
    heads = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    head_norms = [None if head is None else _norm(head, dtype) for head in heads]
    qkv, o = _joined(attention), _bound(attention.o_proj)
    mlp = _bound(children["mlp"])
    if not isinstance(mlp, GatedMlp):
        return None
    if any(n is None for n in norms) or (head_norms[0] is None) != (head_norms[1] is None):
        return None
    if any(head is not None and norm is None for head, norm in zip(heads, head_norms, strict=True)):
        return None
    linears = [qkv, o, mlp.gate_up, mlp.down]
    if not all(_runs_in_c(linear) for linear in linears):
        return None
    return _assemble(layer, call, [*norms, *head_norms], linears)


def _assemble(
    layer: nn.Module, call: AttentionCall, norms: list[RmsNorm | None], linears: list[Any]
) -> LayerParts | None:
    spec = call.spec
    hidden, intermediate = linears[0].num_inputs, linears[-1].num_inputs
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = [(linear.num_inputs, linear.num_outputs) for linear in linears]
    if shapes != [
        (hidden, queries + 2 * keys),
        (queries, hidden),
        (hidden, 2 * intermediate),
        (intermediate, hidden),
    ]:
        return None
    sizes = [None if norm is None else norm.weight.shape[0] for norm in norms]
    if sizes[:2] != [hidden, hidden] or any(n not in (None, spec.head_dim) for n in sizes[2:]):
        return None
    block = Block(
        *(None if norm is None else norm.weight.data_ptr() for norm in norms),
        *(linear.parts for linear in linears),
        *(0.0 if norm is None else norm.eps for norm in norms),
        *(0 if norm is None else int(norm.round_first) for norm in norms),
    )
    rounds = any(linear.kind in (WeightKind.INT8, WeightKind.BLOCKS) for linear in linears)
    return LayerParts(layer, call, hidden, intermediate, block, (norms, linears), rounds)


def _runs_in_c(linear: Any) -> bool:
    if isinstance(linear, PackedProduct):
        return linear.handle is not None
    return isinstance(linear, PackedLinear)


def _plain_attention(attention: Any) -> bool:
    children = {name for name, _ in attention.named_children()} - _HEAD_NORMS
    if children != {*_PROJECTIONS, "o_proj"} or _hooked(attention):
        return False
    rebuilt = attention.__dict__.get("forward")  # its rotary embedding was proven (cpu_rope)
    code = getattr(getattr(rebuilt, "__func__", None), "__code__", None)
    return code is not None and set(code.co_names) <= set(_LOOKED_UP.split())


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _bound(module: Any) -> Any:
    return None if _hooked(module) else module.__dict__.get("forward")


def _norm(module: nn.Module, dtype: torch.dtype) -> RmsNorm | None:
    norm = _bound(module)
    return norm if isinstance(norm, RmsNorm) and norm.dtype == dtype else None


def _joined(attention: Any) -> Any:
    """q, k and v as one product, in this order."""
    members = [_bound(getattr(attention, name)) for name in _PROJECTIONS]
    if not all(isinstance(member, JoinedMember) for member in members):
        return None
    joined = members[0].joined
    in_order = all(m.joined is joined and m.index == i for i, m in enumerate(members))
    whole = in_order and len(joined.sizes) == len(members)
    return joined.function if whole else None
