"""SentencePiece's BPE (`tokenizer.ggml.model` llama): neighbours join by the scores of tokens.

llama.cpp joins, again and again, the two neighbours whose joined text is the token of the highest
score, the leftmost of equals (src/llama-vocab.cpp, `llm_tokenizer_spm_session`). Where scores
differ, that is BPE with the merges that the vocabulary implies, and `tokenizers` does it.
"""

from __future__ import annotations

from typing import Any

from batchgen.gguf.tokenizer.vocabulary import Kind, Vocabulary

__all__ = ["sentence_piece"]

_SPACE = "\u2581"


def sentence_piece(vocabulary: Vocabulary) -> Any:
    """A `tokenizers.Tokenizer`; characters without a token fall back to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    texts = {token: index for index, token in enumerate(vocabulary.tokens)}
    unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=texts,
            merges=_implied_merges(vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    front = [normalizers.Prepend(_SPACE)] if vocabulary.space_first else []
    tokenizer.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", _SPACE)])
    spaces = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if vocabulary.space_first else []
    tokenizer.decoder = decoders.Sequence([*spaces, *strip])
    return tokenizer


def _implied_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, the highest score first."""
    parts = {
        text
        for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        if kind != Kind.BYTE
    }
    found = [
        (-score, text[:cut], text[cut:])
        for text, score in zip(vocabulary.tokens, vocabulary.scores, strict=True)
        for cut in range(1, len(text))
        if text[:cut] in parts and text[cut:] in parts
    ]
    found.sort(key=lambda one: one[0])
    return [(left, right) for _, left, right in found]
