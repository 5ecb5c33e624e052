"""Layer norms with biases: GPT-2, GPT-NeoX, StarCoder 2, StableLM and Nemotron."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.architectures.llama import bias_config
from batchgen.gguf.layout import Layout, base_config, one_rope, read_sizes, rope_config
from batchgen.gguf.names import DENSE, TOP
from batchgen.gguf.reading import Reading
from batchgen.gguf.tensors import To

__all__ = ["gpt2", "gptneox", "nemotron", "stablelm", "starcoder2"]


def gpt2(read: Reading) -> Layout:
    """GPT-2: learned positions, weights that lie across in transformers."""
    sizes = read_sizes(read)
    config = base_config(read, sizes, "gpt2") | {
        "n_positions": read.shape("position_embd.weight")[0],
        "n_inner": read.count("feed_forward_length"),
        "layer_norm_epsilon": read.number("attention.layer_norm_epsilon"),
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }
    top = {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    }
    layer: dict[str, Any] = {
        "attn_norm": "ln_1",
        "attn_qkv": To("attn.c_attn", "transpose"),
        "attn_output": To("attn.c_proj", "transpose"),
        "ffn_norm": "ln_2",
        "ffn_up": To("mlp.c_fc", "transpose"),
        "ffn_down": To("mlp.c_proj", "transpose"),
    }
    return Layout(config, top, layer, {}, "transformer.h.{}.")


def gptneox(read: Reading) -> Layout:
    """GPT-NeoX and Pythia: query, key and value of each head together, attention beside the MLP."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes, partial=True)
    config = base_config(read, sizes, "gpt_neox") | {
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
        "use_parallel_residual": read.flag("use_parallel_residual", True),
        "rope_parameters": rope_config(ropes[""], sizes.head_dim, partial=True),
        "hidden_dropout": 0.0,
    }
    top = {
        "token_embd": "gpt_neox.embed_in",
        "output_norm": "gpt_neox.final_layer_norm",
        "output": "lm_head",
    }
    layer: dict[str, Any] = {
        "attn_norm": "input_layernorm",
        "attn_qkv": To("attention.query_key_value", "heads_first", heads=sizes.heads),
        "attn_output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.dense_h_to_4h",
        "ffn_down": "mlp.dense_4h_to_h",
    }
    return Layout(config, top, layer, ropes, "gpt_neox.layers.{}.")


def starcoder2(read: Reading) -> Layout:
    """StarCoder 2: biases everywhere, an MLP without a gate."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    config = base_config(read, sizes, "starcoder2") | {
        "norm_epsilon": read.number("attention.layer_norm_epsilon"),
        "rope_parameters": rope_config(ropes[""], sizes.head_dim),
        "sliding_window": None,
        "use_bias": True,
        **dict.fromkeys(("residual_dropout", "embedding_dropout"), 0.0),
    }
    layer = {k: v for k, v in DENSE.items() if not k.startswith("ffn_")} | {
        "ffn_norm": "post_attention_layernorm",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    }
    reason = {"attention.sliding_window": "llama.cpp does not read it for this architecture"}
    return Layout(config, TOP, layer, ropes, harmless=reason)


def stablelm(read: Reading) -> Layout:
    """StableLM: partial rotary embeddings; without a second norm, attention beside the MLP."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes, partial=True)
    config = base_config(read, sizes, "stablelm") | {
        "layer_norm_eps": read.number("attention.layer_norm_epsilon"),
        "use_qkv_bias": read.has("blk.0.attn_q.bias"),
        "use_parallel_residual": not read.has("blk.0.ffn_norm.weight"),
        "rope_parameters": rope_config(ropes[""], sizes.head_dim, partial=True),
        "hidden_dropout": 0.0,
    }
    reason = {"use_parallel_residual": "llama.cpp goes by whether the tensor ffn_norm is there"}
    return Layout(config, TOP, DENSE, ropes, harmless=reason)


def nemotron(read: Reading) -> Layout:
    """Nemotron: norms stored with 1 added, a squared ReLU without a gate."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes, partial=True)
    biases, zeros = bias_config(read)
    config = (
        base_config(read, sizes, "nemotron")
        | biases
        | {
            "norm_eps": read.number("attention.layer_norm_epsilon"),
            "hidden_act": "relu2",
            "rope_parameters": rope_config(ropes[""], sizes.head_dim, partial=True),
        }
    )
    layer = {k: To(v, "minus_one") if k.endswith("_norm") else v for k, v in DENSE.items()}
    top = TOP | {"output_norm": To("model.norm", "minus_one")}
    return Layout(config, top, layer, ropes, constants=zeros)
