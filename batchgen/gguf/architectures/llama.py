"""Llama and its near kin: RMS norms before attention and a gated MLP, rotary pairs side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchgen.gguf.architectures import moe
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
from batchgen.gguf.names import DENSE, TOP
from batchgen.gguf.reading import Reading
from batchgen.gguf.ropes import Rope, read_rope

__all__ = ["arcee", "bias_config", "ernie4_5", "granite", "llama", "olmo", "smollm3"]


def llama(read: Reading) -> Layout:
    """Llama, Mistral and whatever else was converted as such; with experts, Mixtral."""
    sizes = read_sizes(read)
    ropes = {"": llama_rope(read, sizes)}
    if read.count("expert_count", 0):
        return moe.mixtral(read, sizes, ropes[""])
    biases, constants = bias_config(read)
    config = base_config(read, sizes, "llama") | biases
    config |= _common(read, sizes, ropes[""])
    return Layout(
        config,
        TOP,
        halves(DENSE, sizes),
        ropes,
        pairs=True,
        constants=constants,
        harmless=NO_WINDOW,
    )


def arcee(read: Reading) -> Layout:
    """A llama whose MLP is a squared ReLU without a gate."""
    found = llama(read)
    return replace(found, config=found.config | {"model_type": "arcee", "hidden_act": "relu2"})


def smollm3(read: Reading) -> Layout:
    """A llama whose every fourth layer turns nothing."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    turned = tuple((layer + 1) % 4 != 0 for layer in range(sizes.layers))
    biases, constants = bias_config(read)
    config = base_config(read, sizes, "smollm3") | biases | _common(read, sizes, ropes[""])
    config |= {"no_rope_layers": [int(one) for one in turned], "layer_types": None}
    layer = halves(DENSE, sizes)
    return Layout(config, TOP, layer, ropes, pairs=True, constants=constants, rope_layers=turned)


def granite(read: Reading) -> Layout:
    """A llama with multipliers."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    biases, constants = bias_config(read)
    config = base_config(read, sizes, "granite") | biases | _common(read, sizes, ropes[""])
    config |= moe.granite_scales(read, sizes)
    return Layout(config, TOP, halves(DENSE, sizes), ropes, pairs=True, constants=constants)


def olmo(read: Reading) -> Layout:
    """A llama whose norms have no weights."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    read.only("attention.layer_norm_epsilon", (1e-5, 9.999999747378752e-06))
    config = base_config(read, sizes, "olmo")
    config["rope_parameters"] = rope_config(ropes[""], sizes.head_dim)
    config["clip_qkv"] = read.number("attention.clamp_kqv", 0.0) or None
    return Layout(config, TOP, halves(DENSE, sizes), ropes, pairs=True)


def ernie4_5(read: Reading) -> Layout:
    """A llama that turns pairs side by side in transformers too: nothing is moved."""
    sizes = read_sizes(read)
    ropes = one_rope(read, sizes)
    biases, constants = bias_config(read)
    config = base_config(read, sizes, "ernie4_5") | _common(read, sizes, ropes[""])
    config["use_bias"] = any(biases.values())
    return Layout(config, TOP, DENSE, ropes, pairs=True, constants=constants)


def llama_rope(read: Reading, sizes: Sizes) -> Rope:
    """The file's rope, with the factors that Llama 3.1 and later bring as a tensor."""
    rope = read_rope(read, sizes.head_dim)
    return replace(rope, factors="rope_freqs.weight") if read.has("rope_freqs.weight") else rope


def bias_config(read: Reading) -> tuple[dict[str, bool], dict[str, float]]:
    """Which layers have biases; those that the module then has beside them are nought."""
    attention = [f"blk.0.attn_{name}.bias" for name in ("q", "k", "v", "output")]
    mlp = [f"blk.0.ffn_{name}.bias" for name in ("gate", "up", "down")]
    found = {
        "attention_bias": any(read.has(name) for name in attention),
        "mlp_bias": any(read.has(name) for name in mlp),
    }
    names = [f"self_attn.{name}_proj.bias" for name in "qkvo"]
    names += [f"mlp.{name}_proj.bias" for name in ("gate", "up", "down")]
    return found, dict.fromkeys(names, 0.0) if any(found.values()) else {}


def _common(read: Reading, sizes: Sizes, rope: Rope) -> dict[str, Any]:
    return {
        "rms_norm_eps": read.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": rope_config(rope, sizes.head_dim),
    }
