"""The built-in model itself: its tokenizer, its shape and its export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["CONTEXT", "ROLES", "SPECIAL", "export", "finish_tokenizer", "make_model", "read_model"]

CONTEXT = 1024
BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SPECIAL = [BOS, END, PAD]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('unknown role: ' + message['role']) -}}
{%- endif -%}
{{- '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""


def finish_tokenizer(teacher: dict[str, Any], whole: list[str], parts: list[str]) -> Tokenizer:
    """Byte-level BPE, digits one by one, a BOS before plain text. A word of `whole` is one token as
    it stands; all else is merged as the teacher does from `parts`, tokens that hold of each the
    tokens that it is merged from.
    """
    names = [*SPECIAL, *ROLES, *whole, *parts]
    there = set(parts)
    merges = [m.split(" ") if isinstance(m, str) else m for m in teacher["model"]["merges"]]
    pieces = dict(teacher)
    pieces["model"] = {
        **teacher["model"],
        "ignore_merges": True,
        "vocab": {name: at for at, name in enumerate(names)},
        "merges": [[a, b] for a, b in merges if a in there and b in there and a + b in there],
    }
    pieces["added_tokens"] = [_added(at, name) for at, name in enumerate([*SPECIAL, *ROLES])]
    pieces["normalizer"] = None
    pieces["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": BOS, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}},
    }
    return Tokenizer.from_str(json.dumps(pieces))


def _added(at: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": at, "content": name, **plain, "special": True}


def make_model(vectors: torch.Tensor, tiny: bool) -> LlamaForCausalLM:
    """4.4 million weights: 5 layers of width 256, 4 heads of 64 over 2 KV heads; tied `vectors`."""
    config = LlamaConfig(
        vocab_size=len(vectors),
        hidden_size=vectors.shape[1],
        intermediate_size=448 if not tiny else 128,
        num_hidden_layers=5 if not tiny else 3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(vectors)
    return model


def read_model(folder: Path) -> LlamaForCausalLM:
    """A trained one's weights, in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """A transformers folder: bf16 safetensors, tokenizer, chat template, greedy defaults."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, pad_token=PAD
    )
    wrapped.model_max_length = CONTEXT
    wrapped.chat_template = CHAT_TEMPLATE
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=2)
    model.to("cpu", torch.bfloat16).save_pretrained(folder)
    wrapped.save_pretrained(folder)
