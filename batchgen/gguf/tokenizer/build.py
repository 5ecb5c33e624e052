"""The `tokenizers.Tokenizer` of a file's vocabulary: its special tokens, its BOS and EOS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgen.gguf.tokenizer.byte_level import byte_level, merge_pairs
from batchgen.gguf.tokenizer.joins import JoiningTokenizer, joins_by_pairs
from batchgen.gguf.tokenizer.sentencepiece import sentence_piece
from batchgen.gguf.tokenizer.vocabulary import Kind, Vocabulary, read_vocabulary

__all__ = ["build_tokenizer", "check_vocabulary"]


def build_tokenizer(metadata: dict[str, Any], path: Path) -> Any:
    """A `tokenizers.Tokenizer`, or what encodes and decodes like one.

    Raises ModelRefusedError for a vocabulary that is not served, or does not fit together.
    """
    vocabulary = read_vocabulary(metadata, path)
    if vocabulary.model == "gpt2":
        tokenizer = byte_level(vocabulary, metadata.get("tokenizer.ggml.merges"))
    else:
        tokenizer = sentence_piece(vocabulary)
    _add_special_tokens(tokenizer, vocabulary)
    _add_post_processor(tokenizer, vocabulary)
    if vocabulary.model == "llama" and not joins_by_pairs(vocabulary):
        return JoiningTokenizer(tokenizer, vocabulary)
    return tokenizer


def check_vocabulary(metadata: dict[str, Any], path: Path) -> None:
    """Raises ModelRefusedError where `build_tokenizer` would, without building one."""
    vocabulary = read_vocabulary(metadata, path)
    if vocabulary.model == "gpt2":
        merge_pairs(metadata.get("tokenizer.ggml.merges"), vocabulary)


def _add_special_tokens(tokenizer: Any, vocabulary: Vocabulary) -> None:
    from tokenizers import AddedToken

    def added(index: int, special: bool) -> Any:
        text, strips = vocabulary.tokens[index], index in vocabulary.strips
        return AddedToken(text, normalized=False, special=special, rstrip=strips)

    hidden = vocabulary.of_kind(Kind.CONTROL, Kind.UNKNOWN)
    tokenizer.add_special_tokens([added(one, True) for one in hidden])
    tokenizer.add_tokens([added(one, False) for one in vocabulary.of_kind(Kind.USER_DEFINED)])


def _add_post_processor(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """BOS before and EOS after plain text."""
    from tokenizers import processors

    def token(index: int | None) -> list[str]:
        return [] if index is None else [vocabulary.tokens[index]]

    front, back = token(vocabulary.bos), token(vocabulary.eos)
    if front or back:
        ids = {text: tokenizer.token_to_id(text) for text in (*front, *back)}
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*front, "$A", *back], special_tokens=list(ids.items())
        )
