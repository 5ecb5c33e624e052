"""Phi: partial rotary embeddings, and long factors for long contexts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchgen.gguf.floats import read_floats
from batchgen.gguf.layout import Layout, Sizes, base_config, one_rope, read_sizes, rope_config
from batchgen.gguf.names import ATTENTION, TOP
from batchgen.gguf.reading import Reading, refused
from batchgen.gguf.ropes import Rope
from batchgen.gguf.tensors import To

__all__ = ["phi2", "phi3"]

_SHORT, _LONG = "rope_factors_short.weight", "rope_factors_long.weight"
_WINDOW = {
    "attention.sliding_window": "llama.cpp leaves the window of this architecture unused",
}


def phi2(read: Reading) -> Layout:
    """Phi 1, 1.5 and 2: attention and MLP side by side, behind one norm."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes, partial=True)
    config = base_config(read, sizes, "phi") | {
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
        "hidden_act": "gelu_new",
        "rope_parameters": rope_config(ropes[""], sizes.head_dim, partial=True),
    }
    layer: dict[str, Any] = ATTENTION | {
        "attn_qkv": split_qkv(sizes),
        "attn_output": "self_attn.dense",
        "ffn_up": "mlp.fc1",
        "ffn_down": "mlp.fc2",
    }
    top = TOP | {"output_norm": "model.final_layernorm"}
    return Layout(config, top, layer, ropes)


def split_qkv(sizes: Sizes) -> tuple[To, To, To]:
    """One tensor of queries, keys and values, one after the other, to three."""
    query = sizes.heads * sizes.head_dim
    key = query + sizes.kv_heads * sizes.head_dim
    value = key + sizes.kv_heads * sizes.head_dim
    return (
        To("self_attn.q_proj", rows=(0, query)),
        To("self_attn.k_proj", rows=(query, key)),
        To("self_attn.v_proj", rows=(key, value)),
    )


def phi3(read: Reading) -> Layout:
    """Phi 3 and 4: one tensor for queries, keys and values, one for gate and up."""
    sizes = read_sizes(read)
    rope = _with_factors(read, one_rope(read, sizes, partial=True)[""])
    config = base_config(read, sizes, "phi3") | {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "sliding_window": None,
        "original_max_position_embeddings": rope.original_length,
        "rope_parameters": rope_config(rope, sizes.head_dim),
    }
    if rope.long_factors:
        config["rope_parameters"] |= {
            "rope_type": "longrope",
            "short_factor": read_floats(read, _SHORT),
            "long_factor": read_floats(read, _LONG),
            "attention_factor": rope.scale(),
            "factor": sizes.context / rope.original_length,
            "original_max_position_embeddings": rope.original_length,
        }
    layer = {
        "attn_norm": "input_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }
    return Layout(config, TOP, layer, {"": rope}, harmless=_WINDOW)


def _with_factors(read: Reading, rope: Rope) -> Rope:
    """Short factors up to the original length, long ones beyond it."""
    if not read.has(_SHORT) and not read.has(_LONG):
        if read.get("rope.scaling.type") == "longrope":
            raise refused(read.path, f"its long rope lacks the tensor {_SHORT}")
        return rope
    if not (read.has(_SHORT) and read.has(_LONG)):
        raise refused(read.path, f"of {_SHORT} and {_LONG} one is missing")
    if not rope.original_length:
        raise read.refused("rope.scaling.original_context_length", 0)
    is_long = read.count("context_length") > rope.original_length
    return replace(rope, factors=_SHORT, long_factors=_LONG if is_long else None)
