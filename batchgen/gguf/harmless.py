"""Metadata keys that change no completion, with the reason; any other unread key is refused."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.layout import Layout
from batchgen.gguf.reading import Reading, refused

__all__ = ["without_effect"]

_ARCHITECTURE = {
    "vocab_size": "the rows of token_embd.weight say it",
    "tensor_data_layout": "a remark of old converters; llama.cpp does not read it",
    "rope.scaling.finetuned": "a remark on training",
    "rope.scaling.original_context_length": "read for yarn and long factors alone",
    "attention.group_norm_groups": "read for other architectures alone",
    "basename": "a name",
    "quantization_version": "the tensors' types say it",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.key_length_mla": (0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.clip_kqv": (0.0,),
    "attention.scale": (0.0,),
    "attention.sliding_window": (0,),
    "attention.value_length_mla": (0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "final_logit_softcapping": (0.0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0.0, 1.0),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
}
"""Values with which a key that an architecture does not read means nothing."""
_TOKENIZER = "tokenizer."
_PLAIN_SPACES = ("general.", "split.", "quantize.", "imatrix.", "GGUF.")
_OTHER_MODELS = ("clip.", "adapter.", "mmproj.", "diffusion.", "xlora.")


def without_effect(read: Reading, layout: Layout) -> dict[str, str]:
    """Keys that took no effect, and why. Raises ModelRefusedError for one that might have any."""
    own = f"{read.architecture}."
    unused: dict[str, str] = {}
    for name, value in read.metadata.items():
        if name in read.used:
            continue
        if name.startswith(own):
            unused[name] = _reason(read, name.removeprefix(own), value, layout)
        elif name.startswith(_OTHER_MODELS):
            raise refused(read.path, f"its metadata key {name} belongs to no language model")
        elif not name.startswith(_TOKENIZER):
            unused[name] = _foreign(name)
    return unused


def _reason(read: Reading, key: str, value: Any, layout: Layout) -> str:
    for table in (layout.harmless, _ARCHITECTURE):
        if key in table:
            return table[key]
    if key in _NEUTRAL and (value in _NEUTRAL[key] or _is_neutral_list(value, _NEUTRAL[key])):
        return f"{value!r} changes nothing"
    raise refused(
        read.path, f"its metadata key {read.architecture}.{key} ({_shown(value)}) is not understood"
    )


def _is_neutral_list(value: Any, neutral: tuple[Any, ...]) -> bool:
    return isinstance(value, list) and all(one in neutral for one in value)


def _foreign(name: str) -> str:
    if name.startswith("general.sampling."):
        return "a sampling default: a run applies it, or says that it does not"
    if name.startswith(_PLAIN_SPACES):
        return "describes the file, not the model"
    return "of another namespace; llama.cpp reads none of them"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
