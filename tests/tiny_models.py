"""Tiny random decoders of every model type that is proven, and of those that are refused.

Weights are drawn wide, so that a wrong mask, window or position shows in the tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from batchgen.engine.model.model import Model
from batchgen.engine.model.pieces import Piece, make_metadata

VOCAB_SIZE = 97
WINDOW = 9

SMALL: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "d_model": 32,
    "ffn_dim": 48,
    "word_embed_proj_dim": 32,
    "sliding_window": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "intermediate_size_mlp": 48,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Taken by every config that has a field of the name."""

MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
MLA = {"num_key_value_heads": 4}

_OF_TEXT = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "num_local_experts", "sliding_window",
    "max_position_embeddings", "pad_token_id",
)  # fmt: skip
TEXT = {name: SMALL[name] for name in _OF_TEXT}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
}
"""Of models that also see: their text is served."""

PROVEN: dict[str, dict[str, Any]] = {
    # Those that every run checks from all sides.
    "gpt2": {},
    "opt": {},
    "gpt_neox": {},
    "llama": {},
    "llama4_text": {"attention_chunk_size": 64, "no_rope_layers": [1, 0, 1], "floor_scale": 64},
    "mistral": {},
    "mixtral": {},
    "qwen2": {"use_sliding_window": True, "layer_types": MIXED},
    "qwen2_moe": {"use_sliding_window": True, "layer_types": MIXED},
    "qwen3": {},
    "qwen3_moe": {},
    "gemma": {},
    "gemma2": {"layer_types": MIXED, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {"layer_types": MIXED},
    "phi": {},
    "phi3": {},
    "phimoe": {},
    "cohere": {},
    "cohere2": {"layer_types": MIXED},
    "olmo2": {},
    "granite": {},
    "glm4": {},
    "stablelm": {},
    "starcoder2": {},
    "gpt_oss": {"layer_types": MIXED},
    "deepseek_v3": MLA,
    # Those that are checked once.
    "afmoe": {"layer_types": MIXED},
    "apertus": {},
    "arcee": {},
    "aria_text": {},
    "axk1": MLA,
    "beam": {"layer_types": MIXED},
    "biogpt": {},
    "bitnet": {},
    "cohere2_moe": {"layer_types": MIXED},
    "ctrl": {},
    "cwm": {"layer_types": MIXED},
    "deepseek_v2": MLA,
    "diffllama": {},
    "dots1": {"n_shared_experts": 1, "layer_types": MIXED},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {"layer_types": MIXED},
    "exaone_moe": {"layer_types": MIXED},
    "flex_olmo": {},
    "flint": {"layer_types": MIXED},
    "gemma3": {
        "text_config": {**TEXT, "layer_types": MIXED},
        "vision_config": VISION,
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 4,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": VOCAB_SIZE,
        "hidden_size_per_layer_input": 8,
    },
    "gemma4_unified_text": {"layer_types": MIXED},
    "glm": {},
    "glm4_moe": {},
    "glm4_moe_lite": MLA,
    "gpt_bigcode": {},
    "granite_swa": {"layer_types": MIXED},
    "granitemoe": {},
    "granitemoehybrid": {
        "layer_types": ["attention"] * 3,
        "position_embedding_type": "rope",
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "shared_intermediate_size": 48,
        "mamba_n_heads": 8,
    },
    "granitemoe_swa": {"layer_types": MIXED},
    "granitemoeshared": {},
    "helium": {},
    "hrm_text": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "hyperclovax": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "jetmoe": {},
    "kolibri1": {},
    "laguna": {"layer_types": MIXED},
    "llama4": {"text_config": {**TEXT, "intermediate_size_mlp": 48}, "vision_config": VISION},
    "longcat_flash": {"num_layers": 2, **MLA},
    "mellum": {"layer_types": MIXED},
    "mimo_v2_flash": {},
    "minicpm3": MLA,
    "minimax_m2": {},
    "ministral": {},
    "ministral3": {},
    "modernbert-decoder": {"local_attention": 2 * WINDOW},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo3": {"layer_types": MIXED},
    "olmoe": {},
    "persimmon": {},
    "seed_oss": {},
    "smollm3": {"layer_types": MIXED, "use_sliding_window": True},
    "solar_open": {},
    "vaultgemma": {"layer_types": MIXED, "attn_logit_softcapping": 2.0},
    "youtu": MLA,
}
"""Model type -> what its tiny config has beyond `SMALL`."""

THOROUGH = list(PROVEN)[: list(PROVEN).index("afmoe")]
ONCE = [name for name in PROVEN if name not in THOROUGH and name in CONFIG_MAPPING]
"""Older transformers know fewer types."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bart": ({}, "encoder-decoder"),
    "bert": ({}, "neither causal nor a sliding window"),
    "bloom": ({}, "position_ids"),
    "deepseek_v32": (MLA, "a key cache of its own"),
    "doge": ({}, "a mask of its own"),
    "falcon": ({}, "AttentionInterface"),
    "jamba": ({}, "state outside attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention", "conv"]}, "state outside attention"),
    "mamba": ({}, "state outside attention"),
    "moshi": ({}, "differ from the model's own forward"),
    "minimax": ({}, "state outside attention"),
    "qwen3_next": ({}, "state outside attention"),
    "recurrent_gemma": ({}, "state outside attention"),
    "rwkv": ({}, "state outside attention"),
    "whisper": ({"decoder_attention_heads": 4}, "encoder-decoder"),
}
"""Model type -> its tiny config, and a part of the reason it is refused for."""


def tiny_config(model_type: str, **changes: Any) -> Any:
    """The config of a tiny model; `changes` win over everything."""
    kind = CONFIG_MAPPING[model_type]
    fields = {*inspect.signature(kind.__init__).parameters, *kind.attribute_map}
    fields |= set(getattr(kind, "__dataclass_fields__", ()))
    own = PROVEN[model_type] if model_type in PROVEN else REFUSED[model_type][0]
    small = {name: value for name, value in SMALL.items() if name in fields}
    return kind(**{**small, **own, **changes})


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A fresh fp32 model with eager attention: equal weights for equal arguments."""
    torch.manual_seed(seed)
    module: Any = AutoModelForCausalLM.from_config(
        tiny_config(model_type, **changes), attn_implementation="eager", dtype=torch.float32
    )
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 or name.endswith(("bias", "sinks")):
            torch.nn.init.normal_(parameter, std=0.2)
    return module.eval().requires_grad_(False)


def answer_among(model: Model, count: int) -> torch.Tensor:
    """Logits [1, vocab] of one row of 30 tokens that is the first of `count` equal ones."""
    pieces = [Piece((2 * i, 2 * i + 1), 0, 30) for i in range(count)]
    metadata = make_metadata(pieces, 16, model.device)
    positions = torch.arange(30).repeat(count)
    ids = torch.arange(3, 33).repeat(count)
    return model.forward(ids, positions, metadata, torch.tensor([29]))


def runs_as_one(model: Model) -> bool:
    """Whether its layers are the CPU's stack in C."""
    names = (getattr(m.__dict__.get("forward"), "__qualname__", "") for m in model.module.modules())
    return any(name.startswith("_first.") for name in names)
