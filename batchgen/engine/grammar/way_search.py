"""How few tokens end what a grammar has begun: a search of the kind that fuzzers use.

llguidance says whether tokens may follow, not how many have to. So an end is walked to, one byte at
a time: quotes and brackets first, as they end things, else the kind of byte that was taken longest
ago, so that no repetition holds it up. Then whatever can be left out is left out, in halves and
down to single tokens (delta debugging; Zeller and Hildebrandt, 2002), and bytes become longer
tokens. The way is short, not the shortest; the same grammar and text have the same one.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from batchgen.engine.grammar.nearest_end import nearest_end
from batchgen.engine.grammar.way import Way, way_along

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["WaySearch", "Ways"]

_MOST_BYTES, _BYTES_OF_TOKEN = 2000, 8
"""Of a way that is looked for; of one of few tokens, so many for each and some to leave out."""
_ENDS = (b'"}])>', b'}])>"')
"""Bytes that end something, the first that may come: a string before an object, and otherwise."""
_KINDS = (
    string.digits.encode(),
    string.ascii_lowercase.encode(),
    string.ascii_uppercase.encode(),
    *(bytes([byte]) for byte in string.punctuation.encode() + b" "),
)


class WaySearch:
    """Over one vocabulary."""

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

    def find(self, matcher: LLMatcher, room: int, has_ends: bool) -> Way | None:
        """The first way found that costs at most `room`, else the cheapest of those found."""
        best: Way | None = None
        for ends in self._ends:
            walked = self._walk(matcher, ends, min(_MOST_BYTES, (room + 8) * _BYTES_OF_TOKEN))
            if walked is None:
                continue
            for shortened in (False, True):
                path = _shortened(matcher, walked) if shortened else walked
                found = self._merged(matcher, path, has_ends)
                best = min(filter(None, (best, found)), key=lambda way: way.cost, default=None)
                if best is not None and best.cost <= room:
                    return best
        return best

    def nearest(
        self, matcher: LLMatcher, known: Way | None, room: int, has_ends: bool
    ) -> Way | None:
        """See `nearest_end`."""
        return nearest_end(self._tokenizer, matcher, known, room, has_ends)

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

    def _merged(self, matcher: LLMatcher, path: list[int], has_ends: bool) -> Way | None:
        merged = self._tokenizer.tokenize_bytes(self._tokenizer.decode_bytes(path))
        if len(merged) < len(path) and (way := way_along(matcher, merged, has_ends)) is not None:
            return way
        return way_along(matcher, path, has_ends)

    def _tokens(self, text: bytes) -> list[int]:
        return [self._byte_tokens[byte] for byte in text if byte in self._byte_tokens]


class Ways:
    """Of one grammar; `begun` is its matcher before the first token, `search` gives the search."""

    def __init__(self, search: Callable[[], WaySearch], begun: LLMatcher) -> None:
        self._search = search
        self._begun = begun
        self._firsts: dict[tuple[int, bool], Way | None] = {}

    def find(self, matcher: LLMatcher, room: int, has_ends: bool) -> Way | None:
        """See `WaySearch.find`."""
        return self._search().find(matcher, room, has_ends)

    def find_nearer(self, matcher: LLMatcher, room: int, has_ends: bool) -> Way | None:
        """The same with a token to spare, or whatever else is found in the room. NO_WAY: it is
        known that nothing is."""
        way = self.find(matcher, room - 1, has_ends)
        if way is not None and way.cost <= room:
            return way
        return self._search().nearest(matcher, way, room, has_ends) or way

    def first(self, room: int, has_ends: bool) -> Way | None:
        """`find_nearer` before the first token; kept, as rows share their grammar and room."""
        key = room, has_ends
        if key not in self._firsts:
            self._firsts[key] = self.find_nearer(self._begun, room, has_ends)
        return self._firsts[key]

    def are_beyond(self, room: int, has_ends: bool) -> bool:
        """Whether no text of so few tokens is known, nor likely."""
        if room >= self._likely:
            return False
        way = self.first(room, has_ends)
        return way is None or way.cost > room

    @cached_property
    def _likely(self) -> int:
        """About half the tokens of the first whole text that was found; 0: none was."""
        way = self.find(self._begun, _MOST_BYTES, has_ends=False)
        return 0 if way is None else way.cost // 2


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
            if way_along(matcher, less, has_ends=False) is not None:
                path = less
            else:
                place += max(1, size // 2)
        size //= 2
    return path
