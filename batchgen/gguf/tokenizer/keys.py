"""Which `tokenizer.*` keys take effect, which have none and why; any other is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = ["tokenizer_keys"]

_OF_MODEL = {"gpt2": ("pre", "merges"), "llama": ("scores", "add_space_prefix")}
_IDS = ("bos", "eos", "eot", "eom", "unknown", "padding", "fim_pad", "fim_rep", "fim_sep")
_APPLIED = {"model", "tokens", "token_type", "add_bos_token", "add_eos_token"}
_UNIGRAM = "llama.cpp reads it for unigram vocabularies alone"
_BERT = "llama.cpp reads it for BERT's vocabularies alone"
_MARK = "a mark for filling in: nothing is put around a text"
_NO_EFFECT = {
    "pre": "cuts are byte-level BPE's alone",
    "merges": "SentencePiece's tokens are joined by their scores",
    "scores": "byte-level BPE joins by its merges",
    "add_space_prefix": "llama.cpp reads it for SentencePiece alone",
    "remove_extra_whitespaces": _UNIGRAM,
    "precompiled_charsmap": _UNIGRAM,
    **dict.fromkeys(("add_sep_token", "seperator_token_id", "cls_token_id"), _BERT),
    **dict.fromkeys(("mask_token_id", "token_type_count"), _BERT),
    **dict.fromkeys(("normalizer.lowercase", "normalizer.strip_accents"), _BERT),
    **dict.fromkeys(("fim_pre_token_id", "fim_suf_token_id", "fim_mid_token_id"), _MARK),
    **dict.fromkeys(("prefix_token_id", "suffix_token_id", "middle_token_id"), _MARK),
    "added_tokens": "llama.cpp reads tokenizer.ggml.tokens alone",
}
_OTHERS = {
    "tokenizer.huggingface.json": "llama.cpp reads the lists of tokenizer.ggml",
    "tokenizer.rwkv.world": "llama.cpp reads the lists of tokenizer.ggml",
    "tokenizer.chat_templates": "a list of the names of templates",
}
_GGML, _TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"


def tokenizer_keys(metadata: dict[str, Any], path: Path) -> tuple[set[str], dict[str, str]]:
    """Keys that take effect, and those without any, with the reason. Raises ModelRefusedError for
    one that is not understood."""
    model = str(metadata.get("tokenizer.ggml.model"))
    ids = {f"{name}_token_id" for name in _IDS}
    applied = _APPLIED | ids | set(_OF_MODEL.get(model, ()))
    used = {f"{_GGML}{name}" for name in applied}
    used |= _templates(metadata, path)
    unused = {name: reason for name, reason in _OTHERS.items() if name in metadata}
    for name, value in metadata.items():
        if not name.startswith("tokenizer.") or name in unused:
            continue
        if name not in used:
            unused[name] = _reason(name, value, path)
        elif name.removeprefix(_GGML) in ids and _is_beyond(value, metadata, name, path):
            unused[name] = "an id beyond the vocabulary; llama.cpp passes over it"
    return (used & metadata.keys()) - unused.keys(), unused


def _templates(metadata: dict[str, Any], path: Path) -> set[str]:
    """The file's chat template, and those that have a name of their own."""
    found = {name for name in metadata if f"{name}.".startswith(f"{_TEMPLATE}.")}
    for name in found:
        if not isinstance(metadata[name], str):
            raise ModelRefusedError(
                f"{path}: its metadata key {name} is no text",
                "Convert the file again, or name the model's transformers folder instead.",
            )
    return found


def _reason(name: str, value: Any, path: Path) -> str:
    short = name.removeprefix(_GGML)
    if name.startswith(_GGML) and short in _NO_EFFECT:
        return _NO_EFFECT[short]
    if short == "suppress_tokens" and value == []:
        return "an empty list"
    raise ModelRefusedError(
        f"{path}: its metadata key {name} is not understood",
        "Name the model's transformers folder or hub id instead, or another .gguf file.",
    )


def _is_beyond(value: Any, metadata: dict[str, Any], name: str, path: Path) -> bool:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelRefusedError(
            f"{path}: its metadata key {name} is no token's id",
            "Convert the file again, or name the model's transformers folder instead.",
        )
    tokens = metadata.get("tokenizer.ggml.tokens")
    return not (isinstance(tokens, list) and 0 <= value < len(tokens))
