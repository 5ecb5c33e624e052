"""Layers of experts: Mixtral, Qwen's, Granite's, OLMoE and gpt-oss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchgen.gguf.harmless import NO_WINDOW
from batchgen.gguf.layout import (
    Layout,
    Sizes,
    base_config,
    halves,
    one_rope,
    read_sizes,
    rope_config,
)
from batchgen.gguf.names import ATTENTION, QK_NORMS, TOP
from batchgen.gguf.reading import Reading
from batchgen.gguf.ropes import Rope
from batchgen.gguf.tensors import To

__all__ = ["gpt_oss", "granite_scales", "granitemoe", "mixtral", "olmoe", "qwen2moe", "qwen3moe"]

BESIDE_EXPERTS = ATTENTION | {"ffn_norm": "post_attention_layernorm"}


def _experts(room: str = "mlp", router: str = "gate") -> dict[str, Any]:
    joined = f"{room}.experts.gate_up_proj"
    return {
        "ffn_gate_inp": f"{room}.{router}",
        "ffn_gate_exps": To(joined, "join", place=0, axis=1, bare=True),
        "ffn_up_exps": To(joined, "join", place=1, axis=1, bare=True),
        "ffn_down_exps": To(f"{room}.experts.down_proj", bare=True),
    }


def _config(read: Reading, sizes: Sizes, rope: Rope, model_type: str) -> dict[str, Any]:
    count = read.count("expert_count")
    return base_config(read, sizes, model_type) | {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_config(rope, sizes.head_dim),
        "num_experts_per_tok": read.count("expert_used_count"),
        "num_local_experts": count,
        "num_experts": count,
        "sliding_window": None,
    }


def mixtral(read: Reading, sizes: Sizes, rope: Rope) -> Layout:
    """A `llama` file with experts."""
    config = _config(read, sizes, rope, "mixtral")
    layer = halves(BESIDE_EXPERTS, sizes) | _experts()
    return Layout(config, TOP, layer, {"": rope}, pairs=True, harmless=NO_WINDOW)


def qwen2moe(read: Reading) -> Layout:
    """Experts beside one that all tokens share; their weights do not add up to one."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, ropes[""], "qwen2_moe")
    width, used = config["intermediate_size"], config["num_experts_per_tok"]
    config |= {
        "moe_intermediate_size": read.count("expert_feed_forward_length", 0) or width // used,
        "shared_expert_intermediate_size": read.count("expert_shared_feed_forward_length", 0)
        or width,
        "norm_topk_prob": False,
        "mlp_only_layers": [],
    }
    layer = (
        BESIDE_EXPERTS
        | _experts()
        | {
            "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
            "ffn_up_shexp": "mlp.shared_expert.up_proj",
            "ffn_down_shexp": "mlp.shared_expert.down_proj",
            "ffn_gate_inp_shexp": To("mlp.shared_expert_gate", "row"),
        }
    )
    zeros = dict.fromkeys((f"self_attn.{name}_proj.bias" for name in "qkv"), 0.0)
    return Layout(config, TOP, layer, ropes, constants=zeros)


def qwen3moe(read: Reading) -> Layout:
    """Experts whose weights add up to one, norms on queries and keys."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, ropes[""], "qwen3_moe")
    config |= {
        "moe_intermediate_size": read.count("expert_feed_forward_length", 0)
        or config["intermediate_size"] // config["num_experts_per_tok"],
        "norm_topk_prob": True,
        "mlp_only_layers": [],
    }
    return Layout(config, TOP, BESIDE_EXPERTS | QK_NORMS | _experts(), ropes)


def olmoe(read: Reading) -> Layout:
    """Experts, and norms over all queries and all keys at once."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, ropes[""], "olmoe")
    config |= {"norm_topk_prob": False, "clip_qkv": None}
    return Layout(config, TOP, BESIDE_EXPERTS | QK_NORMS | _experts(), ropes)


def granitemoe(read: Reading) -> Layout:
    """Granite's multipliers over layers of experts."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    read.only("expert_shared_feed_forward_length", (0,))
    config = _config(read, sizes, ropes[""], "granitemoe") | granite_scales(read, sizes)
    layer = halves(BESIDE_EXPERTS, sizes) | _experts("block_sparse_moe", "router")
    return Layout(config, TOP, layer, ropes, pairs=True)


def granite_scales(read: Reading, sizes: Sizes) -> dict[str, Any]:
    """Granite's multipliers; 0 stands for none."""
    read.only("rope.scaling.finetuned", (True,))  # false: llama.cpp turns nothing
    return {
        "embedding_multiplier": read.number("embedding_scale", 0.0) or 1.0,
        "residual_multiplier": read.number("residual_scale", 0.0) or 1.0,
        "logits_scaling": read.number("logit_scale", 0.0) or 1.0,
        "attention_multiplier": read.number("attention.scale", 0.0) or sizes.head_dim**-0.5,
    }


def gpt_oss(read: Reading) -> Layout:
    """gpt-oss: sinks, a window in every other layer, experts with biases."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, ropes[""], "gpt_oss")
    kinds = ("sliding_attention", "full_attention")
    read.only("attention.sliding_window_pattern", (2,))
    config |= {
        "intermediate_size": read.count("expert_feed_forward_length"),
        "sliding_window": read.count("attention.sliding_window"),
        "layer_types": [kinds[layer % 2] for layer in range(sizes.layers)],
        "attention_bias": True,
    }
    joined = To("mlp.experts.gate_up_proj", "interleave", place=0, bare=True)
    layer: dict[str, Any] = BESIDE_EXPERTS | {
        "post_attention_norm": "post_attention_layernorm",
        "attn_sinks": To("self_attn.sinks", bare=True),
        "ffn_gate_inp": "mlp.router",
        "ffn_gate_exps": joined,
        "ffn_up_exps": replace(joined, place=1),
        "ffn_down_exps": To("mlp.experts.down_proj", "transpose", bare=True),
    }
    del layer["ffn_norm"]
    return Layout(config, TOP, layer, ropes)
