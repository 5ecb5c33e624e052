"""GLM: half of each head is turned, pairs side by side; gate and up are one tensor."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.architectures.phi import split_qkv
from batchgen.gguf.layout import Layout, base_config, one_rope, read_sizes, rope_config
from batchgen.gguf.names import ATTENTION, TOP
from batchgen.gguf.reading import Reading

__all__ = ["chatglm", "glm4"]


def _glm(read: Reading, model_type: str, norms: dict[str, str]) -> Layout:
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes, partial=True)
    config = base_config(read, sizes, model_type) | {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "attention_bias": read.has("blk.0.attn_q.bias") or read.has("blk.0.attn_qkv.bias"),
        "rope_parameters": rope_config(ropes[""], sizes.head_dim, partial=True),
    }
    layer: dict[str, Any] = ATTENTION | {
        "attn_qkv": split_qkv(sizes),
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }
    return Layout(config, TOP, layer | norms, ropes, pairs=True)


def chatglm(read: Reading) -> Layout:
    """GLM 4 of 2024."""
    return _glm(read, "glm", {})


def glm4(read: Reading) -> Layout:
    """GLM 4 of 2025: a norm after attention and one after the MLP."""
    norms = {
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
    }
    return _glm(read, "glm4", norms)
