"""Metadata keys that change no completion, with the reason; any other unread key is refused."""

from __future__ import annotations

from typing import Any

from batchgen.gguf.layout import Layout
from batchgen.gguf.reading import Reading, refused

__all__ = ["NO_WINDOW", "without_effect"]

NO_WINDOW = {"attention.sliding_window": "llama.cpp does not read it for this architecture"}
"""For a layout's `harmless`: of architectures whose files may have it."""
_ARCHITECTURE = {
    "vocab_size": "the rows of token_embd.weight say it",
    "tensor_data_layout": "a remark of old converters; llama.cpp does not read it",
    "rope.scaling.finetuned": "a remark on training",
    "rope.scaling.original_context_length": "read for yarn and long factors alone",
    "attention.group_norm_groups": "read for other architectures alone",
    "basename": "a name",
    "quantization_version": "the tensors' types say it",
}
_NONE = (
    "attention.key_length_mla", "attention.max_alibi_bias", "attention.clamp_kqv",
    "attention.clip_kqv", "attention.scale", "attention.sliding_window",
    "attention.value_length_mla", "attn_logit_softcapping", "expert_count",
    "expert_feed_forward_length", "expert_shared_count", "expert_used_count",
    "final_logit_softcapping", "leading_dense_block_count", "nextn_predict_layers", "pooling_type",
)  # fmt: skip
_NONE_OR_ONE = (
    "embedding_scale", "expert_group_count", "expert_group_used_count", "expert_weights_scale",
    "logit_scale", "residual_scale",
)  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(_NONE, (0,)),
    **dict.fromkeys(_NONE_OR_ONE, (0, 1)),
    "attention.causal": (True,),
    "rope.scaling.attn_factor": (1,),
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
