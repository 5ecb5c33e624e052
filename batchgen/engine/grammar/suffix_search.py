"""A short suffix that completes a grammar's text, found as fuzzers do: walk to an end, then shrink.

llguidance says whether tokens may follow, not how many have to. So the search walks to an end one
byte at a time. Quotes and brackets come first, as they close things; otherwise the kind of byte
that was taken longest ago, so that a repetition does not go on for ever. Then the walk is shrunk:
parts that can be left out are left out, from halves down to single tokens (delta debugging; Zeller
and Hildebrandt, 2002), and bytes are joined to longer tokens. The suffix is short, not always the
shortest, and the same for the same grammar and text.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from batchgen.engine.grammar.shortest_suffix import shortest_suffix
from batchgen.engine.grammar.suffix import Suffix, as_suffix

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["SuffixSearch", "Suffixes"]

_MOST_BYTES, _BYTES_OF_TOKEN = 2000, 8
"""Bytes of a walk, at most: in all, and for each token that there is room for."""
_ENDS = (b'"}])>', b'}])>"')
"""Bytes that close something. Two walks try them in these orders: strings first, or objects."""
_KINDS = (
    string.digits.encode(),
    string.ascii_lowercase.encode(),
    string.ascii_uppercase.encode(),
    *(bytes([byte]) for byte in string.punctuation.encode() + b" "),
)


class SuffixSearch:
    """Searches over one vocabulary."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._byte_tokens: dict[int, int] = {}
        for token in range(tokenizer.vocab_size):
            text = tokenizer.decode_bytes([token])
            if len(text) == 1 and not tokenizer.is_special_token(token):
                self._byte_tokens.setdefault(text[0], token)
        named = b"".join(_KINDS)
        self._rest = self._tokens(bytes(b for b in range(256) if b not in named))
        self._ends = [self._tokens(ends) for ends in _ENDS]
        self._quote, self._letter = self._tokens(b'"'), self._tokens(b"q")

    def find(self, matcher: LLMatcher, room: int, has_ends: bool) -> Suffix | None:
        """The first suffix found that costs at most `room`, else the cheapest of those found."""
        best: Suffix | None = None
        for ends in self._ends:
            walked = self._walk(matcher, ends, min(_MOST_BYTES, (room + 8) * _BYTES_OF_TOKEN))
            if walked is None:
                continue
            for shortened in (False, True):
                path = _shortened(matcher, walked) if shortened else walked
                found = self._merged(matcher, path, has_ends)
                best = min(
                    filter(None, (best, found)), key=lambda suffix: suffix.cost, default=None
                )
                if best is not None and best.cost <= room:
                    return best
        return best

    def nearest(
        self, matcher: LLMatcher, known: Suffix | None, room: int, has_ends: bool
    ) -> Suffix | None:
        """See `shortest_suffix`."""
        return shortest_suffix(self._tokenizer, matcher, known, room, has_ends)

    def _walk(self, matcher: LLMatcher, ends: Sequence[int], most: int) -> list[int] | None:
        here, path = matcher.deep_copy(), list[int]()
        kinds = [tokens for tokens in map(self._tokens, _KINDS) if tokens]
        while not here.is_accepting():
            if len(path) >= most:
                return None
            # Where letters may come too, a bracket is text, which ends nothing.
            is_text = bool(self._letter) and here.validate_tokens(self._letter) == 1
            token = _first(here, self._quote if is_text else ends)
            token = _taken_in_turn(here, kinds) if token is None else token
            token = _first(here, self._rest) if token is None else token
            if token is None or not here.consume_token(token):
                return None
            path.append(token)
        return path

    def _merged(self, matcher: LLMatcher, path: list[int], has_ends: bool) -> Suffix | None:
        merged = self._tokenizer.tokenize_bytes(self._tokenizer.decode_bytes(path))
        if len(merged) < len(path) and (suffix := as_suffix(matcher, merged, has_ends)) is not None:
            return suffix
        return as_suffix(matcher, path, has_ends)

    def _tokens(self, text: bytes) -> list[int]:
        return [self._byte_tokens[byte] for byte in text if byte in self._byte_tokens]


class Suffixes:
    """Suffixes of one grammar. `begun` is its matcher before the first token; `search` makes the
    search over the vocabulary, when it is first needed."""

    def __init__(self, search: Callable[[], SuffixSearch], begun: LLMatcher) -> None:
        self._search = search
        self._begun = begun
        self._firsts: dict[tuple[int, bool], Suffix | None] = {}

    def find(self, matcher: LLMatcher, room: int, has_ends: bool) -> Suffix | None:
        """See `SuffixSearch.find`."""
        return self._search().find(matcher, room, has_ends)

    def find_nearer(self, matcher: LLMatcher, room: int, has_ends: bool) -> Suffix | None:
        """A suffix that leaves a token to spare, else one that just fits. NO_SUFFIX: it is known
        that there is none that fits."""
        suffix = self.find(matcher, room - 1, has_ends)
        if suffix is not None and suffix.cost <= room:
            return suffix
        return self._search().nearest(matcher, suffix, room, has_ends) or suffix

    def first(self, room: int, has_ends: bool) -> Suffix | None:
        """`find_nearer` before the first token; kept, as rows share their grammar and room."""
        key = room, has_ends
        if key not in self._firsts:
            self._firsts[key] = self.find_nearer(self._begun, room, has_ends)
        return self._firsts[key]

    def are_beyond(self, room: int, has_ends: bool) -> bool:
        """Whether no whole text of at most `room` tokens is known, and none is likely."""
        if room >= self._likely:
            return False
        suffix = self.first(room, has_ends)
        return suffix is None or suffix.cost > room

    @cached_property
    def _likely(self) -> int:
        """About half the tokens of the first whole text that was found; 0: none was."""
        suffix = self.find(self._begun, _MOST_BYTES, has_ends=False)
        return 0 if suffix is None else suffix.cost // 2


def _first(matcher: LLMatcher, tokens: Sequence[int]) -> int | None:
    return next((token for token in tokens if matcher.validate_tokens([token])), None)


def _taken_in_turn(matcher: LLMatcher, kinds: list[list[int]]) -> int | None:
    """Of the first kind that may come its first token that may; both go to the end of their line,
    the tokens of a kind among themselves."""
    for place, tokens in enumerate(kinds):
        token = _first(matcher, tokens)
        if token is not None:
            tokens.append(tokens.pop(tokens.index(token)))
            kinds.append(kinds.pop(place))
            return token
    return None


def _shortened(matcher: LLMatcher, path: list[int]) -> list[int]:
    size = len(path) // 2
    while size:
        place = 0
        while place < len(path):
            less = path[:place] + path[place + size :]
            if as_suffix(matcher, less, has_ends=False) is not None:
                path = less
            else:
                place += max(1, size // 2)
        size //= 2
    return path
