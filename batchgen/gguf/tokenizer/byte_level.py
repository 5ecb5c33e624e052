"""Byte-level BPE (`tokenizer.ggml.model` gpt2): cuts of the named kind, then the file's merges."""

from __future__ import annotations

from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from batchgen.gguf.tokenizer.vocabulary import Vocabulary

__all__ = ["byte_level", "merge_pairs"]


def byte_level(vocabulary: Vocabulary, merges: Any) -> Any:
    """A `tokenizers.Tokenizer`. Raises ModelRefusedError for merges that name what is no token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    rule = PRE_TOKENIZERS[vocabulary.pre]
    texts = {token: index for index, token in enumerate(vocabulary.tokens)}
    pairs = merge_pairs(merges, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=texts, merges=pairs, ignore_merges=rule.words_first))
    cuts = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in rule.patterns]
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def merge_pairs(merges: Any, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Best first; of a pair that is listed twice, the first place counts. Raises
    ModelRefusedError for one that names what is no token."""
    if not isinstance(merges, list):
        raise ModelRefusedError(
            f"{vocabulary.path}: its tokenizer lacks tokenizer.ggml.merges.",
            "Convert the file again.",
        )
    texts = set(vocabulary.tokens)
    found: dict[tuple[str, str], None] = {}
    for merge in merges:
        left, right = _halves(str(merge))
        unknown = [text for text in (left, right, left + right) if text not in texts]
        if unknown:
            raise ModelRefusedError(
                f"{vocabulary.path}: the merge {merge!r} of its tokenizer names {unknown[0]!r}, "
                "which is no token of its vocabulary.",
                "Convert the file again, or name the model's transformers folder instead.",
            )
        found.setdefault((left, right))
    return list(found)


def _halves(merge: str) -> tuple[str, str]:
    """At the first space that is not the merge's first letter."""
    place = merge.find(" ", 1)
    return (merge[:place], merge[place + 1 :]) if place > 0 else (merge, "")
