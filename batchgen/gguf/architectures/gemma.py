"""Gemma: norms stored with 1 added, scaled embeddings, soft caps, windows on some layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchgen.gguf.layout import (
    Layout,
    Sizes,
    base_config,
    one_rope,
    read_sizes,
    rope_config,
    window_or_none,
)
from batchgen.gguf.names import DENSE, QK_NORMS
from batchgen.gguf.reading import Reading
from batchgen.gguf.tensors import To

__all__ = ["gemma", "gemma2", "gemma3"]

TOP: dict[str, Any] = {
    "token_embd": "model.embed_tokens",
    "output_norm": To("model.norm", "minus_one"),
    "output": "lm_head",
}
POST_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SLIDING, FULL = "sliding_attention", "full_attention"


def _minus_one(table: dict[str, str]) -> dict[str, Any]:
    return {k: To(v, "minus_one") if k.endswith("_norm") else v for k, v in table.items()}


def _config(read: Reading, sizes: Sizes, model_type: str) -> dict[str, Any]:
    return base_config(read, sizes, model_type) | {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
    }


def gemma(read: Reading) -> Layout:
    """The first Gemma."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, "gemma")
    config["rope_parameters"] = rope_config(ropes[""], sizes.head_dim)
    return Layout(config, TOP, _minus_one(DENSE), ropes)


def gemma2(read: Reading) -> Layout:
    """Gemma 2: soft caps, and a window in every other layer."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    read.only("attention.sliding_window_pattern", (2,))
    config = _config(read, sizes, "gemma2") | {
        "rope_parameters": rope_config(ropes[""], sizes.head_dim),
        "attn_logit_softcapping": read.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": read.number("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _scalar(sizes, large=46),
        "sliding_window": read.count("attention.sliding_window", 4096),
        "layer_types": [(SLIDING, FULL)[layer % 2] for layer in range(sizes.layers)],
    }
    return Layout(config, TOP, _minus_one(DENSE | POST_NORMS), ropes)


def gemma3(read: Reading) -> Layout:
    """Gemma 3: a window in five layers of six, each kind of layer with a rope of its own."""
    sizes = read_sizes(read)
    full = one_rope(read, sizes)[""]
    window = window_or_none(read)
    period = read.count("attention.sliding_window_pattern", 6)
    local = replace(full, base=read.number("rope.freq_base_swa", 10000.0), factor=1.0, yarn=False)
    ropes = {SLIDING: local, FULL: full}
    kinds = [_kind(layer, period) if window else FULL for layer in range(sizes.layers)]
    config = _config(read, sizes, "gemma3_text") | {
        "rope_parameters": {k: rope_config(one, sizes.head_dim) for k, one in ropes.items()},
        "attn_logit_softcapping": None,
        "final_logit_softcapping": read.number("final_logit_softcapping", 0.0) or None,
        "query_pre_attn_scalar": _scalar(sizes, large=62),
        "sliding_window": window or sizes.context,
        "layer_types": kinds,
    }
    return Layout(config, TOP, _minus_one(DENSE | POST_NORMS | QK_NORMS), ropes)


def _kind(layer: int, period: int) -> str:
    return FULL if period == 0 or layer % period == period - 1 else SLIDING


def _scalar(sizes: Sizes, large: int) -> float:
    """Whose root queries are divided by: the 27B models, known by their layers, have another."""
    return sizes.hidden / sizes.heads if sizes.layers == large else sizes.head_dim
