"""A tiny config of any decoder that transformers has: its class is asked, no type is named."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

__all__ = ["VOCAB_SIZE", "mixed_configs", "tiny_configs"]

VOCAB_SIZE = 97
HEADS, HEAD_DIM, WINDOW = 4, 8, 9
HIDDEN = HEADS * HEAD_DIM

_SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "hidden_size": HIDDEN,
    "hidden_size_per_layer_input": HEAD_DIM,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS // 2,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 256,
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "n_input_layers": 1,
    "n_output_layers": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "n_positions": 256,
    "d_model": HIDDEN,
    "ffn_dim": 48,
    "word_embed_proj_dim": HIDDEN,
    "sliding_window": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": HEAD_DIM,
    "qk_rope_head_dim": HEAD_DIM,
    "v_head_dim": 12,
    "laurel_rank": 4,
    "num_kv_shared_layers": 2,
    "image_size": 28,
    "patch_size": 14,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""What a field of the name is given; a config without the field is left alone."""
_LAYER_FIELDS = ("num_hidden_layers", "n_layer", "num_layers")
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_VARIATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": HEADS},
    {"rotary_dim": HEAD_DIM // 2},
    {"num_kv_shared_layers": 0},
    {"head_dim": 2 * HEAD_DIM},
    {"hidden_size": 64, "head_dim": 16},
    {"num_experts_per_tok": 1},
    {"num_heads": 8, "mamba_n_heads": 8},
    {"hidden_size_per_layer_input": 0},
    {"attention_types": [[["global", "local"], 2]]},
    {"layer_types": ["conv", "full_attention"] * 2},
    {"rope_parameters": {kind: dict(_ROPE) for kind in ("full_attention", "sliding_attention")}},
    {"is_decoder": True},
)
"""Tried in turn, for what the fields of one config ask of each other."""


def tiny_configs(kind: type[Any]) -> Iterator[Any]:
    """Other and other tiny configs of the class; those that it rejects are left out.

    Raises what the class raised, if it takes none.
    """
    error: Exception | None = None
    given = 0
    for by_layer, variation in product((True, False), _VARIATIONS):
        try:
            config = kind(**_fields(kind, variation, by_layer))
        except Exception as caught:
            error = error or caught
            continue
        given += 1
        yield config
    if not given and error is not None:
        raise error


def mixed_configs(kind: type[Any], layer: str) -> Iterator[Any]:
    """A tiny config with layers of this kind between full attention; none if that is not taken."""
    if "layer_types" not in _names(kind):
        return
    try:
        changes = {"layer_types": [layer, "full_attention"] * 2}
        yield kind(**{**_fields(kind, {}, by_layer=False), **changes})
    except Exception:
        return


def _fields(kind: type[Any], changes: Mapping[str, Any], by_layer: bool) -> dict[str, Any]:
    """The arguments that make a config small, its parts too. `by_layer`: what it says of each layer
    is said again of the few that are left; else the class settles that."""
    names = _names(kind)
    default = kind()
    small = {name: value for name, value in {**_SMALL, **changes}.items() if name in names}
    small |= _layers(default, names, by_layer)
    for name in getattr(kind, "sub_configs", None) or {}:
        part = type(_read(default, name))
        if hasattr(part, "sub_configs"):
            small[name] = _fields(part, changes, by_layer)
    return small


def _names(kind: type[Any]) -> set[str]:
    names = {*inspect.signature(kind.__init__).parameters, *(kind.attribute_map or {})}
    names |= set(getattr(kind, "__dataclass_fields__", ()))
    stored = {name: (kind.attribute_map or {}).get(name, name) for name in names}
    return {name for name in names if not isinstance(getattr(kind, stored[name], None), property)}


def _read(config: Any, name: str) -> Any:
    """A field, or None: of some, transformers gives no single value."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def _layers(default: Any, names: set[str], by_layer: bool) -> dict[str, Any]:
    """Few layers, with each kind that the whole model has, twice."""
    field = next((name for name in _LAYER_FIELDS if name in names), None)
    depth = _read(default, field) if field else None
    if field is None or not isinstance(depth, int):
        return {}
    if not by_layer:
        return {field: 4}
    lists = {
        name: value
        for name in names
        if isinstance(value := _read(default, name), list) and len(value) == depth
    }
    chosen = _one_of_each(lists.get("layer_types") or [*range(min(depth, 2))])
    chosen = 2 * chosen if "layer_types" in lists else chosen
    small = {name: [value[at] for at in chosen] for name, value in lists.items()}
    return {field: len(chosen), **{name: _capped(value) for name, value in small.items()}}


def _one_of_each(kinds: list[Any]) -> list[int]:
    """The first place of each kind, in their order."""
    return [at for at, kind in enumerate(kinds) if kind not in kinds[:at]]


def _capped(values: list[Any]) -> list[Any]:
    """Sizes given a layer, made small as well."""
    return [48 if type(value) is int and value > 1000 else value for value in values]
