"""Command R: one norm for attention and MLP side by side, a scale on the logits."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.architectures.llama import bias_config
from batchgen.gguf.layout import Layout, Sizes, base_config, one_rope, read_sizes, rope_config
from batchgen.gguf.names import DENSE, QK_NORMS, TOP
from batchgen.gguf.reading import Reading
from batchgen.gguf.ropes import Rope

__all__ = ["cohere2", "command_r"]

LAYER = {k: v for k, v in DENSE.items() if k != "ffn_norm"}


def _config(read: Reading, sizes: Sizes, rope: Rope, model_type: str) -> dict[str, Any]:
    return base_config(read, sizes, model_type) | {
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
        "logit_scale": read.number("logit_scale", 0.0) or 1.0,
        "rope_parameters": rope_config(rope, sizes.head_dim),
        "attention_bias": bias_config(read)[0]["attention_bias"],
    }


def command_r(read: Reading) -> Layout:
    """Command R and R+."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = _config(read, sizes, ropes[""], "cohere")
    config["use_qk_norm"] = read.has("blk.0.attn_q_norm.weight")
    zeros = bias_config(read)[1]
    return Layout(config, TOP, LAYER | QK_NORMS, ropes, pairs=True, constants=zeros)


def cohere2(read: Reading) -> Layout:
    """Command R7B: three layers of four have a window and are turned, the fourth has neither."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    read.only("attention.sliding_window_pattern", (4,))
    turned = tuple((layer + 1) % 4 != 0 for layer in range(sizes.layers))
    config = _config(read, sizes, ropes[""], "cohere2") | {
        "sliding_window": read.count("attention.sliding_window"),
        "layer_types": ["sliding_attention" if one else "full_attention" for one in turned],
    }
    zeros = bias_config(read)[1]
    return Layout(config, TOP, LAYER, ropes, pairs=True, constants=zeros, rope_layers=turned)
