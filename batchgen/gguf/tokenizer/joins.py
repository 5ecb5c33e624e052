"""SentencePiece's joining, step by step, for vocabularies that are no BPE of pairs.

`tokenizers` ranks pairs of tokens. llama.cpp ranks the token that a pair becomes, the leftmost of
equals first, and a letter that is no token may still become part of one; so where scores are equal,
or such letters are there, the joins are made here.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    """What `tokenizers` gives back, as far as it is read. `offsets`: each token's letters."""

    ids: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    def add(self, token: int, start: int, end: int) -> None:
        """One token more, made of these letters of the text."""
        self.ids.append(token)
        self.offsets.append((start, end))


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

    def __getattr__(self, name: str) -> Any:
        """Decoding, and what is known of tokens. A grammar's vocabulary has the right tokens and
        bytes, and other joins."""
        if name.startswith("__") or name == "_backend":
            raise AttributeError(name)  # not yet there while it is unpickled
        return getattr(self._backend, name)

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Raises TypeError for text that is none (a lone surrogate), as `tokenizers` does."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TypeError(str(error)) from error
        found = Encoding()
        if add_special_tokens and self._vocabulary.bos is not None:
            found.add(self._vocabulary.bos, 0, 0)
        self._add_text(text, found)
        if add_special_tokens and self._vocabulary.eos is not None:
            found.add(self._vocabulary.eos, 0, 0)
        return found

    def encode_batch_fast(
        self, texts: Sequence[str], add_special_tokens: bool = True
    ) -> list[Encoding]:
        """See `encode`."""
        return [self.encode(text, add_special_tokens) for text in texts]

    def _add_text(self, text: str, to: Encoding) -> None:
        place = 0
        while found := self._special.search(text, place):
            self._add_plain(text, place, found.start(), to)
            token, place = self._texts[found[0]], found.end()
            to.add(token, found.start(), place)
            if token in self._vocabulary.strips:
                place = len(text) - len(text[place:].lstrip(_BLANKS))
        self._add_plain(text, place, len(text), to)

    def _add_plain(self, text: str, start: int, end: int, to: Encoding) -> None:
        if start >= end:
            return
        place = start - self._vocabulary.space_first  # a space in front stands for the first letter
        space = _SPACE if self._vocabulary.space_first else ""
        for piece in self._joined(space + text[start:end].replace(" ", _SPACE)):
            after = place + len(piece)
            for token in self._ids_of(piece):
                to.add(token, max(place, start), max(after, start + 1))
            place = after

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
