"""The byte-level BPE tokenizer that a GGUF file describes, pre-tokenizer included.

A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`) and leaves the rule to the reader. The
rules are llama.cpp's (src/llama-vocab.cpp). transformers' loader drops the single-digit split of
`smollm` and its kin, so that "12345" came out as other tokens than the model was trained on.
An unknown name is refused: other cuts give other tokens, silently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = ["build_byte_level", "is_byte_level", "special_token_texts"]

_CONTROL, _USER_DEFINED = 3, 4
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LOWER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_UPPER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASH_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_LOWER_WORD}|{_UPPER_WORD}|\p{{N}}{_SLASH_TAIL}"
_GPT4O = (
    rf"{_LOWER_WORD}{_CONTRACTIONS}?|{_UPPER_WORD}{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{_SLASH_TAIL}"
)

_GPT2_STYLE = frozenset(
    {"default", "gpt-2", "phi-2", "mpt", "olmo", "jina-es", "jina-de", "roberta-bpe"}
)
_DIGIT_STYLE = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
_SPLITS = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("lfm2", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan"), _QWEN2),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4"), _GPT4O),
}
_WHOLE_WORDS_FIRST = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken", "lfm2"}
)
"""Where a word that is itself a token skips the merges (`ignore_merges`)."""
_ADDS_BOS = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def is_byte_level(metadata: dict[str, Any]) -> bool:
    """Whether the file's vocabulary is byte-level BPE (`gpt2`), which `build_byte_level` makes."""
    return metadata.get("tokenizer.ggml.model") == "gpt2"


def special_token_texts(metadata: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token, ... -> text: what chat templates read by name."""
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    ids = {name: metadata.get(f"tokenizer.ggml.{key}") for name, key in _NAMED.items()}
    return {name: tokens[one] for name, one in ids.items() if one is not None and one < len(tokens)}


def build_byte_level(metadata: dict[str, Any], path: Path) -> Any:
    """A `tokenizers.Tokenizer`. Raises ModelRefusedError for a pre-tokenizer it does not know."""
    from tokenizers import Tokenizer, decoders, models

    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    vocab = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = _merges(metadata, vocab, path)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE_WORDS_FIRST)
    )
    tokenizer.pre_tokenizer = _pre_tokenizer(pre, path)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special_tokens(tokenizer, metadata)
    _add_post_processor(tokenizer, metadata, pre)
    return tokenizer


def _merges(metadata: dict[str, Any], vocab: dict[str, int], path: Path) -> list[tuple[str, str]]:
    """Pairs, best first. Raises ModelRefusedError where one names what is no token."""
    listed = metadata.get("tokenizer.ggml.merges")
    if not isinstance(listed, list):
        raise ModelRefusedError(
            f"{path}: its tokenizer lacks tokenizer.ggml.merges.", "Convert the file again."
        )
    merges = []
    for merge in listed:
        left, _, right = str(merge).partition(" ")
        unknown = [text for text in (left, right, left + right) if text not in vocab]
        if unknown:
            raise ModelRefusedError(
                f"{path}: the merge {merge!r} of its tokenizer names {unknown[0]!r}, which is no "
                "token of its vocabulary.",
                "Convert the file again, or name the model's transformers folder instead.",
            )
        merges.append((left, right))
    return merges


def _pre_tokenizer(pre: str, path: Path) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if pre in _GPT2_STYLE:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre in _DIGIT_STYLE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if pre not in _SPLITS:
        known = ", ".join(sorted(_GPT2_STYLE | _DIGIT_STYLE | set(_SPLITS)))
        raise ModelRefusedError(
            f"{path}: its pre-tokenizer {pre!r} is unknown; known: {known}.",
            "Name the model's transformers folder or hub id instead of the .gguf file.",
        )
    split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, level])


def _add_special_tokens(tokenizer: Any, metadata: dict[str, Any]) -> None:
    from tokenizers import AddedToken

    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata.get("tokenizer.ggml.token_type") or []
    control = [t for t, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL]
    plain = [t for t, kind in zip(tokens, kinds, strict=False) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in plain])


def _add_post_processor(tokenizer: Any, metadata: dict[str, Any], pre: str) -> None:
    """BOS before and EOS after plain text, where the file (or, silent, its kind) says so."""
    from tokenizers import processors

    texts = special_token_texts(metadata)
    bos, eos = texts.get("bos_token"), texts.get("eos_token")
    adds_bos = metadata.get("tokenizer.ggml.add_bos_token", pre in _ADDS_BOS)
    adds_eos = metadata.get("tokenizer.ggml.add_eos_token", False)
    front = [bos] if adds_bos and bos else []
    back = [eos] if adds_eos and eos else []
    if front or back:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*front, "$A", *back],
            special_tokens=[(t, tokenizer.token_to_id(t)) for t in {*front, *back}],
        )
