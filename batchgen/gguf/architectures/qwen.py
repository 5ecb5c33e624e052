"""Qwen and others of llama's kind whose rotary pairs lie half a head apart."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.architectures.llama import bias_config
from batchgen.gguf.harmless import NO_WINDOW
from batchgen.gguf.layout import Layout, base_config, one_rope, read_sizes, rope_config
from batchgen.gguf.names import DENSE, QK_NORMS, TOP
from batchgen.gguf.reading import Reading

__all__ = ["hunyuan_dense", "olmo2", "qwen2", "qwen3", "seed_oss"]

NO_BIAS = dict.fromkeys((f"self_attn.{name}_proj.bias" for name in "qkv"), 0.0)


def _neox(
    read: Reading,
    model_type: str,
    layer: dict[str, Any],
    more: dict[str, Any],
    constants: dict[str, float],
) -> Layout:
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = base_config(read, sizes, model_type) | {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_config(ropes[""], sizes.head_dim),
    }
    return Layout(config | more, TOP, layer, ropes, constants=constants, harmless=NO_WINDOW)


def qwen2(read: Reading) -> Layout:
    """Qwen 2 and 2.5: biases on queries, keys and values."""
    return _neox(read, "qwen2", DENSE, {"use_sliding_window": False}, NO_BIAS)


def qwen3(read: Reading) -> Layout:
    """Qwen 3: norms on each head's queries and keys."""
    biases, zeros = bias_config(read)
    more = {"use_sliding_window": False, "attention_bias": biases["attention_bias"]}
    return _neox(read, "qwen3", DENSE | QK_NORMS, more, zeros)


def hunyuan_dense(read: Reading) -> Layout:
    """Hunyuan: the norms on queries and keys come after they are turned."""
    norms = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}
    return _neox(read, "hunyuan_v1_dense", DENSE | norms, {"attention_bias": False}, {})


def seed_oss(read: Reading) -> Layout:
    """Seed-OSS: biases on queries, keys and values, where the file has them."""
    biases, zeros = bias_config(read)
    layer = {k: v for k, v in DENSE.items() if k != "ffn_norm"}
    layer["post_attention_norm"] = DENSE["ffn_norm"]
    more = {
        "attention_bias": biases["attention_bias"],
        "attention_out_bias": read.has("blk.0.attn_output.bias"),
        "residual_dropout": 0.0,
    }
    return _neox(read, "seed_oss", layer, more, zeros)


def olmo2(read: Reading) -> Layout:
    """OLMo 2: norms after attention and MLP, and over all queries and all keys at once."""
    layer = {k: v for k, v in DENSE.items() if not k.endswith("_norm")}
    layer |= QK_NORMS | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    read.only("attention.sliding_window", (0,))  # OLMo 3
    return _neox(read, "olmo2", layer, {}, {})
