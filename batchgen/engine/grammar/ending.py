"""That a document ends in time: how many tokens its grammar still needs, beside how many are left.

A model that may go on for ever (a string without a bound, digits, items) does so until max_tokens,
and half a document is of no use. So once few tokens are left, a way out is kept in mind, and looked
at after each token: no token may come after which it is longer than what is left, and when just
enough is left, only those may come that keep it so. All of it follows from the grammar and the
row's own tokens, so that a row is the same alone, among others and continued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchgen.engine.grammar.way import Way, way_along
from batchgen.engine.grammar.way_search import Ways

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["Ending"]

_CLOSE = 64
"""Tokens to spare below which every token is looked at; above, it is looked again at half."""
_MOST_TRIED, _MOST_TRIED_LAST = 48, 4096
"""Allowed tokens that are tried one by one when just enough is left; the last one's trial is short.
Where more are allowed (within text) the way's own comes."""
_MOST_SEARCHED = 16
"""Room for whose sake a new way is looked for while just enough is left."""


class Ending:
    """Of one sequence. `room`: tokens that may still come; `matcher`: after all that came.

    `begin`: the room from which on it looks. `has_ends`: whether a token ends the sequence.
    """

    def __init__(self, ways: Ways, begin: int, has_ends: bool) -> None:
        self._ways = ways
        self._due = begin
        self._has_ends = has_ends
        self._num_taken = 0
        self._has_failed = False
        """Whether a way was looked for in vain."""
        self._way: Way | None = None
        self._next: tuple[int, Way | None] | None = None
        """A token that was looked at, and the way after it."""

    def look(self, matcher: LLMatcher, room: int) -> Way | None:
        """The way out, where it is time to know it."""
        if self._way is None and room <= self._due:
            if self._ways.are_beyond(self._num_taken + room, self._has_ends):
                self._due = -1
                return None
            way = self._found(matcher, room)
            self._has_failed |= way is None or way.cost > room
            self._keep(way, room)
        return self._way

    def fits(self, matcher: LLMatcher, token: int, room: int) -> bool:
        """Whether it can end in `room` tokens after this one comes next. To be asked once `look`
        has found a way."""
        after = matcher.deep_copy()
        if not after.consume_token(token):
            return False
        way = self._after(after, token, room)
        self._next = token, way
        return way is not None and way.cost <= room

    def advance(self, matcher: LLMatcher, token: int, room: int) -> None:
        """This token came, `matcher` has taken it, and `room` may follow."""
        known, self._next = self._next, None
        self._num_taken += 1
        if self._way is None:
            return
        looked = known is not None and known[0] == token
        self._keep(known[1] if known and looked else self._after(matcher, token, room), room)

    def tried(self, matcher: LLMatcher, allowed: list[int], room: int) -> list[int]:
        """Of the tokens that the grammar allows those after which it ends in time; of more than a
        few the way's own alone. `room`: with the one that comes now."""
        assert self._way is not None
        first = self._way.tokens[:1]
        if self._has_ends and not first:
            return []  # nothing but an end token
        if len(allowed) > (_MOST_TRIED if room > 1 else _MOST_TRIED_LAST):
            return [token for token in allowed if token in first]
        return [token for token in allowed if self.fits(matcher, token, room - 1)]

    def _found(self, matcher: LLMatcher, room: int) -> Way | None:
        if not self._num_taken:
            return self._ways.first(room, self._has_ends)
        if self._has_failed:  # what the long search has not found it seldom finds later
            return self._ways.find(matcher, room - 1, self._has_ends)
        return self._ways.find_nearer(matcher, room, self._has_ends)

    def _after(self, matcher: LLMatcher, token: int, room: int) -> Way | None:
        """The way from here, where `token` was the last to come: what is left of the old one, or a
        part of it, or one that is looked for."""
        old = () if self._way is None else self._way.tokens
        if old[:1] == (token,):
            return way_along(matcher, old[1:], self._has_ends)
        parts = (old[first:] for first in range(len(old), -1, -1))  # the shortest first
        ways = (way_along(matcher, part, self._has_ends) for part in parts)
        kept = next(filter(None, ways), None)
        if kept is not None and (kept.cost < room or kept.cost == room <= _MOST_SEARCHED):
            return kept
        if not room or (room > _MOST_SEARCHED and len(old) >= room):
            return kept  # just enough is left, as it has been: no time for that at each token
        found = self._ways.find(matcher, room - 1, self._has_ends)
        return min(filter(None, (kept, found)), key=lambda way: way.cost, default=None)

    def _keep(self, way: Way | None, room: int) -> None:
        """Of a way that is too long, as of one that is far from being needed, nothing is kept."""
        spare = room if way is None else room - way.cost
        is_near = way is not None and 0 <= spare <= _CLOSE
        self._due = room if is_near else room - max(1, abs(spare) // 2)
        self._way = way if is_near else None
