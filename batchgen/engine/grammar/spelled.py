"""A vocabulary for grammars whose texts hold those of special tokens, such as HTML's `<s>`.

Where a grammar leaves one text alone, llguidance asks the tokenizer for its tokens, and a tokenizer
finds special tokens in it, which are no text. So it is asked for letters instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from batchgen.engine.grammar.vocabulary import head_of

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["holds", "special_texts", "spelled_out"]

_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN = r"[\\\[\]()]*"


def special_texts(vocabulary: str) -> frozenset[str]:
    """The special tokens of what `tokenizers.Tokenizer.to_str` gave."""
    added = (head_of(vocabulary) or {}).get("added_tokens") or []
    return frozenset(token["content"] for token in added if token["special"] and token["content"])


def holds(grammar: str, texts: Collection[str]) -> bool:
    """Whether one of the texts stands in a grammar: as it is, as JSON writes it, or with what
    regular expressions have between letters."""
    ways = (way for text in texts for way in {text, json.dumps(text)[1:-1]})
    return any(_stands_in(way, grammar) for way in ways)


def _stands_in(text: str, grammar: str) -> bool:
    if any(word not in grammar for word in _WORD.findall(text)):
        return False
    return re.search(_BETWEEN.join(map(re.escape, text)), grammar) is not None


def spelled_out(vocabulary: str, tokenizer: LLTokenizer, slices: Sequence[str]) -> LLTokenizer:
    """`tokenizer`, which was read from the same, with another way to tokenise a forced text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    tokens = TokenizerWrapper(_Spelled(vocabulary, tokenizer))
    ends = tokenizer.eos_tokens
    return LLTokenizer(tokens, n_vocab=tokenizer.vocab_size, eos_token=ends, slices=[*slices])


class _Spelled:
    """What llguidance's wrapper asks for."""

    def __init__(self, vocabulary: str, tokenizer: LLTokenizer) -> None:
        from tokenizers import Tokenizer

        self._backend: Any = Tokenizer.from_str(vocabulary)
        self._backend.encode_special_tokens = True
        self.bos_token_id = None
        self.eos_token_id = tokenizer.eos_token
        ids = range(tokenizer.vocab_size)
        self.special_token_ids = [token for token in ids if tokenizer.is_special_token(token)]
        self._special = frozenset(self.special_token_ids)
        self.tokens = [tokenizer.decode_bytes([token]) for token in ids]
        for token in self.special_token_ids:
            self.tokens[token] = (self._backend.id_to_token(token) or "").encode()

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError("text is wanted, not bytes")
        pieces = (self._letters(token) for token in self._encoded(text))
        return [token for piece in pieces for token in piece]

    def _letters(self, token: int) -> list[int]:
        """Of a special token its text's: a unigram model has it among its words."""
        if token not in self._special:
            return [token]
        return [one for letter in self.tokens[token].decode() for one in self._encoded(letter)]

    def _encoded(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)
