"""Which tokens of a file's vocabulary are special, and which end a sequence.

As llama.cpp gathers them (src/llama-vocab.cpp, `llama_vocab::impl::load`): the ids that the file
names, and texts that it knows, wherever they stand in the vocabulary: many a conversion for chats
names the text's end alone. Read of its revision 00ad355e, and compared with what its library says
by `jobs/check_gguf_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["CONTROL_TEXTS", "end_ids", "named_id", "not_special"]

_EOG = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
    *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"),
    *("<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>"),
    *("<\uff5cend\u2581of\u2581sentence\uff5c>", "[e~["),
)
_FIM_ENDS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_FIM_MARKS = (
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>"),
    *("\u2581<PRE>", "<|code_prefix|>", "<|prefix|>"),
    *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>"),
    *("\u2581<SUF>", "<|code_suffix|>", "<|suffix|>"),
    *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>"),
    *("\u2581<MID>", "<|code_middle|>", "<|middle|>"),
)
CONTROL_TEXTS = frozenset([*_EOG, *_FIM_MARKS, *(t for one in _FIM_ENDS.values() for t in one)])
"""Control tokens whatever type the file gives them."""
_DEFAULTS = {"llama": {"bos": 1, "eos": 2, "unknown": 0}}
"""By `tokenizer.ggml.model`, where the file names none. For byte-level BPE llama.cpp takes 11, once
Falcon's end: here that is none."""


def named_id(metadata: dict[str, Any], name: str) -> int | None:
    """The id that `tokenizer.ggml.NAME_token_id` gives, or its default; one beyond the vocabulary
    counts as not given."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    size = len(tokens) if isinstance(tokens, list) else 0
    defaults = _DEFAULTS.get(str(metadata.get("tokenizer.ggml.model")), {})
    for one in (metadata.get(f"tokenizer.ggml.{name}_token_id"), defaults.get(name)):
        if isinstance(one, int) and not isinstance(one, bool) and 0 <= one < size:
            return one
    return None


def end_ids(metadata: dict[str, Any]) -> tuple[int, ...]:
    """Ids that end a sequence, those that the file names first."""
    texts = _places(metadata)
    found = [named_id(metadata, name) for name in ("eos", "eot", "eom")]
    for name, known in _FIM_ENDS.items():
        own = named_id(metadata, name)
        found += [own] if own is not None else [texts[one] for one in known if one in texts]
    found += [texts[one] for one in _EOG if one in texts]
    apart = {texts[one] for one in not_special(texts)}
    return tuple(dict.fromkeys(one for one in found if one is not None and one not in apart))


def not_special(texts: Iterable[str]) -> set[str]:
    """Of the known ends, those that end nothing in this vocabulary: gpt-oss and Solar end messages,
    not turns, with `<|end|>`; Gemma 4 has `</s>` as plain text."""
    have = set(texts)
    apart: set[str] = set()
    if {"<|call|>", "<|calls|>"} & have and {"<|return|>", "<|flush|>"} & have:
        apart |= {"<|end|>"} & have
    if {"<|tool_response>", "</s>"} <= have:
        apart.add("</s>")
    return apart


def _places(metadata: dict[str, Any]) -> dict[str, int]:
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list):
        return {}
    return {text: index for index, text in enumerate(tokens) if text in CONTROL_TEXTS}
