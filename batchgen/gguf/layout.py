"""What an architecture makes of a file: config, tables of tensors, rotary frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchgen.gguf.reading import Reading
from batchgen.gguf.ropes import Rope, read_rope
from batchgen.gguf.tensors import Table, To

__all__ = [
    "Layout",
    "Sizes",
    "base_config",
    "halves",
    "one_rope",
    "read_sizes",
    "rope_config",
    "window_or_none",
]


@dataclass(frozen=True, slots=True)
class Layout:
    """`config`: of transformers, `model_type` included. `ropes`: by layer type, "" for all.

    `pairs`: whether the file's rotary pairs lie side by side (ggml's "norm" kind) or half a head
    apart ("neox"). `constants`: weights that the module has and the file does not, by value.
    `harmless`: keys of this architecture that have no effect, and why.
    """

    config: dict[str, Any]
    top: Table
    layer: Table
    ropes: dict[str, Rope]
    layer_prefix: str = "model.layers.{}."
    pairs: bool = False
    constants: dict[str, float] = field(default_factory=dict)
    harmless: dict[str, str] = field(default_factory=dict)
    rope_layers: tuple[bool, ...] | None = None
    """Which layers turn their queries and keys; None = all."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sizes:
    """Dimensions that all architectures name alike."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    vocab: int
    tied: bool


def read_sizes(read: Reading) -> Sizes:
    """Read them, and check that they describe heads of one size."""
    hidden, heads = read.count("embedding_length"), read.count("attention.head_count")
    layers, context = read.count("block_count"), read.count("context_length")
    for key, value in {"embedding_length": hidden, "attention.head_count": heads}.items():
        if not value:
            raise read.refused(key, value)
    if not 0 < layers <= len(read.tensors):
        raise read.refused("block_count", layers)
    if not context:
        raise read.refused("context_length", context)
    kv_heads = read.count("attention.head_count_kv", heads) or heads
    head_dim = read.count("attention.key_length", hidden // heads)
    if not head_dim or read.count("attention.value_length", hidden // heads) != head_dim:
        raise read.refused("attention.value_length", read.get("attention.value_length"))
    if heads % kv_heads:
        raise read.refused("attention.head_count_kv", kv_heads)
    return Sizes(
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        context,
        read.shape("token_embd.weight")[0],
        not read.has("output.weight"),
    )


def base_config(read: Reading, sizes: Sizes, model_type: str) -> dict[str, Any]:
    """The part of a config that most model types share."""
    return {
        "model_type": model_type,
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "intermediate_size": read.count("feed_forward_length", 0),
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.context,
        "tie_word_embeddings": sizes.tied,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def rope_config(rope: Rope, head_dim: int, *, partial: bool = False) -> dict[str, Any]:
    """`rope_parameters` of the plain kind; the file's own frequencies are put in their place.
    `partial`: the type's own default is a part of a head, so that the whole is written too."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.base}
    if partial or rope.dims != head_dim:
        found["partial_rotary_factor"] = rope.dims / head_dim
    return found


def one_rope(read: Reading, sizes: Sizes, *, partial: bool = False) -> dict[str, Rope]:
    """The same rope for all layers."""
    return {"": read_rope(read, sizes.head_dim, partial=partial)}


def halves(table: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The table with queries and keys brought from pairs side by side to transformers' halves."""
    query = To(table["attn_q"], "unpermute", heads=sizes.heads)
    key = To(table["attn_k"], "unpermute", heads=sizes.kv_heads)
    return {**table, "attn_q": query, "attn_k": key}


def window_or_none(read: Reading) -> int | None:
    """`attention.sliding_window`, where it is one."""
    return read.count("attention.sliding_window", 0) or None
