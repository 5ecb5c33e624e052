"""SentencePiece's joining, step by step, for vocabularies that are no BPE of pairs.

`tokenizers` ranks pairs of tokens. llama.cpp ranks the token that a pair becomes, the leftmost of
equals first, and a letter that is no token may still become part of one; so where scores are equal,
or such letters are there, the joins are made here.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.gguf.tokenizer.vocabulary import Kind, Vocabulary

__all__ = ["JoiningTokenizer", "joins_by_pairs"]

_SPACE = "\u2581"
_BLANKS = " \t\n\v\f\r"
_SPECIAL = (Kind.CONTROL, Kind.UNKNOWN, Kind.USER_DEFINED)


def joins_by_pairs(vocabulary: Vocabulary) -> bool:
    """Whether ranked pairs of tokens join every text as scores do."""
    special = vocabulary.of_kind(*_SPECIAL) if vocabulary.strips else []
    if any(vocabulary.tokens[one].startswith(tuple(_BLANKS)) for one in special):
        return False  # one that strips what another is
    texts = set(vocabulary.tokens)
    scores: set[float] = set()
    for text, kind, score in zip(
        vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True
    ):
        if len(text) < 2 or kind in _SPECIAL or kind == Kind.BYTE:
            continue
        if not all(letter in texts for letter in text):
            return False
        if any(text[:cut] in texts and text[cut:] in texts for cut in range(1, len(text))):
            if score in scores:
                return False
            scores.add(score)
    return True


@dataclass(frozen=True, slots=True)
class Encoding:
    """What `tokenizers` gives back, as far as it is read."""

    ids: list[int]


class JoiningTokenizer:
    """Encodes by scores; everything else is the `tokenizers.Tokenizer` beside it."""

    def __init__(self, backend: Any, vocabulary: Vocabulary) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._texts = {text: index for index, text in enumerate(vocabulary.tokens)}
        special = sorted(
            (vocabulary.tokens[one] for one in vocabulary.of_kind(*_SPECIAL)), key=len, reverse=True
        )
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Raises TypeError for text that is none (a lone surrogate), as `tokenizers` does."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TypeError(str(error)) from error
        ids = self._of_text(text)
        around = (self._vocabulary.bos, self._vocabulary.eos)
        front, back = ([] if one is None else [one] for one in around)
        return Encoding([*front, *ids, *back] if add_special_tokens else ids)

    def encode_batch_fast(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[Encoding]:
        """See `encode`."""
        return [self.encode(text, add_special_tokens) for text in texts]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """As `tokenizers` does."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def decode_batch(
        self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = True
    ) -> list[str]:
        """As `tokenizers` does."""
        return list(self._backend.decode_batch(sequences, skip_special_tokens=skip_special_tokens))

    def token_to_id(self, text: str) -> int | None:
        """The id of a whole token."""
        return self._texts.get(text)

    def to_str(self) -> str:
        """The vocabulary as a tokenizer.json: tokens and their bytes are right, joins are not."""
        return str(self._backend.to_str())

    def no_truncation(self) -> None:
        """Nothing is ever cut."""

    def no_padding(self) -> None:
        """Nothing is ever padded."""

    def _of_text(self, text: str) -> list[int]:
        ids: list[int] = []
        place = 0
        while found := self._special.search(text, place):
            ids += self._of_plain(text[place : found.start()])
            token = self._texts[found[0]]
            ids.append(token)
            place = found.end()
            if token in self._vocabulary.strips:
                place = len(text) - len(text[place:].lstrip(_BLANKS))
        return ids + self._of_plain(text[place:])

    def _of_plain(self, text: str) -> list[int]:
        if not text:
            return []
        space = _SPACE if self._vocabulary.space_first else ""
        pieces = self._joined(space + text.replace(" ", _SPACE))
        return [one for piece in pieces for one in self._ids_of(piece)]

    def _ids_of(self, piece: str) -> list[int]:
        if piece in self._texts:
            return [self._texts[piece]]
        found = [self._texts.get(f"<0x{byte:02X}>") for byte in piece.encode()]
        if None not in found:
            return [one for one in found if one is not None]
        return [] if self._vocabulary.unknown is None else [self._vocabulary.unknown]

    def _joined(self, text: str) -> list[str]:
        """Pieces of `text`, joined by the scores of what they become, the leftmost of equals."""
        pieces: list[str] = list(text)
        after = [*range(1, len(pieces)), -1]
        before = list(range(-1, len(pieces) - 1))
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                both = pieces[left] + pieces[right]
                if both in self._texts:
                    score = self._vocabulary.scores[self._texts[both]]
                    heapq.heappush(queue, (-score, left, right, both))

        for left in range(len(pieces) - 1):
            offer(left, left + 1)
        while queue:
            _, left, right, both = heapq.heappop(queue)
            if not pieces[left] or not pieces[right] or pieces[left] + pieces[right] != both:
                continue
            pieces[left], pieces[right] = both, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [piece for piece in pieces if piece]
