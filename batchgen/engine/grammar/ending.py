"""Ending a document in time: the tokens that its grammar still needs, against those that are left.

A model that may go on for ever (a string without a bound, digits, items) does so until max_tokens,
and half a document is of no use. So once few tokens are left, a suffix that completes the document
is kept, and updated after each token. No token is accepted after which no suffix fits into what is
left; and when the suffix just fits, only tokens are allowed after which one still does. All of this
depends on the grammar and the row's own tokens alone, so a row comes out the same alone, in any
batch, and continued after an interruption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.engine.grammar.suffix import Suffix, as_suffix
from batchgen.engine.grammar.suffix_search import Suffixes

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Ending"]

_CLOSE = 64
"""With fewer tokens to spare, the suffix is updated at every token; with more, it is looked for
again when half of them are used."""
_MOST_TRIED, _MOST_TRIED_LAST = 48, 4096
"""When the suffix just fits, up to so many allowed tokens are tried one by one (more for the last
token, whose trial is short). Where more are allowed (within text) only the suffix's own remains."""
_MOST_SEARCHED = 16
"""While the suffix just fits, a shorter one is looked for only with at most so many tokens left."""


class Ending:
    """One sequence's. `room`: tokens that may still come; `matcher`: has taken all that came.

    `begin`: how many tokens are left when the first suffix is looked for. `has_ends`: whether the
    sequence ends by an end token, which takes one more.
    """

    def __init__(self, suffixes: Suffixes, begin: int, has_ends: bool) -> None:
        self._suffixes = suffixes
        self._due = begin
        self._has_ends = has_ends
        self._num_taken = 0
        self._has_failed = False
        """Whether a suffix was looked for in vain."""
        self._suffix: Suffix | None = None
        self._next: tuple[int, Suffix | None] | None = None
        """A token that was looked at, and the suffix after it."""

    def look(self, matcher: LLMatcher, room: int) -> Suffix | None:
        """The suffix, where it is time to know it."""
        if self._suffix is None and room <= self._due:
            if self._suffixes.are_beyond(self._num_taken + room, self._has_ends):
                self._due = -1
                return None
            suffix = self._found(matcher, room)
            self._has_failed |= suffix is None or suffix.cost > room
            self._keep(suffix, room)
        return self._suffix

    def fits(self, matcher: LLMatcher, token: int, room: int) -> bool:
        """Whether the document can end in `room` tokens after `token`. To be asked once `look` has
        found a suffix."""
        after = matcher.deep_copy()
        if not after.consume_token(token):
            return False
        suffix = self._after(after, token, room)
        self._next = token, suffix
        return suffix is not None and suffix.cost <= room

    def advance(self, matcher: LLMatcher, token: int, room: int) -> None:
        """`token` came, `matcher` has taken it, and `room` tokens may follow."""
        known, self._next = self._next, None
        self._num_taken += 1
        if self._suffix is None:
            return
        looked = known is not None and known[0] == token
        self._keep(known[1] if known and looked else self._after(matcher, token, room), room)

    def tried(self, matcher: LLMatcher, allowed: list[int], room: int) -> list[int]:
        """Of the allowed tokens those after which the document ends in time; where they are many,
        only the suffix's own. `room`: with the token that comes now."""
        assert self._suffix is not None
        first = self._suffix.tokens[:1]
        if self._has_ends and not first:
            return []  # nothing but an end token
        if len(allowed) > (_MOST_TRIED if room > 1 else _MOST_TRIED_LAST):
            return [token for token in allowed if token in first]
        return [token for token in allowed if self.fits(matcher, token, room - 1)]

    def _found(self, matcher: LLMatcher, room: int) -> Suffix | None:
        if not self._num_taken:
            return self._suffixes.first(room, self._has_ends)
        if self._has_failed:  # what the long search has not found it seldom finds later
            return self._suffixes.find(matcher, room - 1, self._has_ends)
        return self._suffixes.find_nearer(matcher, room, self._has_ends)

    def _after(self, matcher: LLMatcher, token: int, room: int) -> Suffix | None:
        """The suffix after `token`: what is left of the old one, or a tail of it, or a new one."""
        old = () if self._suffix is None else self._suffix.tokens
        if old[:1] == (token,):
            return as_suffix(matcher, old[1:], self._has_ends)
        parts = (old[first:] for first in range(len(old), -1, -1))  # the shortest first
        suffixes = (as_suffix(matcher, part, self._has_ends) for part in parts)
        kept = next(filter(None, suffixes), None)
        if kept is not None and (kept.cost < room or kept.cost == room <= _MOST_SEARCHED):
            return kept
        if not room or (room > _MOST_SEARCHED and len(old) >= room):
            return kept  # just enough is left, as it has been: no time for that at each token
        found = self._suffixes.find(matcher, room - 1, self._has_ends)
        return min(filter(None, (kept, found)), key=lambda suffix: suffix.cost, default=None)

    def _keep(self, suffix: Suffix | None, room: int) -> None:
        """Keep a suffix that is needed soon; forget one that does not fit or is far from needed."""
        spare = room if suffix is None else room - suffix.cost
        is_near = suffix is not None and 0 <= spare <= _CLOSE
        self._due = room if is_near else room - max(1, abs(spare) // 2)
        self._suffix = suffix if is_near else None
