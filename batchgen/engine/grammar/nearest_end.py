"""The nearest end where a grammar allows few tokens at each place: a best-first search.

States are the texts that tokens make, so that what they spell in two ways is looked at once. A text
after which the rest of a known way holds stands at the place on that way where this rest begins.
First comes what promises the shortest whole: where a text stands at a place, the tokens so far and
that rest, and one more for each token since. So words that can be put for others are tried by their
length, and a shorter one is at once gone on from. Who comes to a place with no fewer tokens than
another waits, and so does what begins or ends with a blank, which JSON could leave out: else each
choice on the way and each blank would multiply the texts.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batchgen.engine.grammar.way import NO_WAY, Way, way_along

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["nearest_end"]

_MOST_STATES = 256
"""Texts that are looked at, 0.1 to 0.2 ms each with a vocabulary of 49,000."""
_MOST_NEXT = 64
"""Allowed tokens that are all followed; of more (within text) those of the known way alone."""


class _State(NamedTuple):
    """A text. In the order in which they are looked at."""

    num_doubts: int
    promised: int
    number: int
    tokens: tuple[int, ...]
    text: bytes
    before: LLMatcher
    """Ahead of the last token."""


def nearest_end(
    tokenizer: LLTokenizer, matcher: LLMatcher, known: Way | None, room: int, has_ends: bool
) -> Way | None:
    """A way that costs at most `room`. NO_WAY: there is none; None: none was found. `known`: one
    that costs more."""
    old = () if known is None else known.tokens
    states, fewest, numbers = [_State(0, 0, 0, (), b"", matcher)], {b"": 0}, count(1)
    places: dict[int, int] = {}
    is_whole = True
    for _ in range(_MOST_STATES):
        if not states:
            return NO_WAY if is_whole else None
        state = heappop(states)
        here, num_tokens = state.before.deep_copy(), len(state.tokens)
        if state.tokens and not here.consume_token(state.tokens[-1]):
            continue
        end = way_along(here, (), has_ends)
        if end is not None and num_tokens + end.cost <= room:
            return Way(state.tokens, num_tokens + end.cost)
        if here.is_stopped() or num_tokens >= room:
            continue
        allowed, are_all = _allowed(tokenizer, here, old)
        is_whole &= are_all
        num_doubts, promised = state.num_doubts, state.promised
        place, rest = _joined(here, old, allowed, has_ends)
        if rest is not None:
            promised = num_tokens + rest.cost
            if promised <= room:
                return Way(state.tokens + rest.tokens, promised)
            num_doubts += places.get(place, room) <= num_tokens
            places[place] = min(places.get(place, room), num_tokens)
        for token in sorted(allowed):
            word = tokenizer.decode_bytes([token])
            text = state.text + word
            if num_tokens + 1 < fewest.get(text, room + 1):
                fewest[text] = num_tokens + 1
                doubts = num_doubts + (word != word.strip())
                goes_on = rest is not None and token == old[place]
                path = (*state.tokens, token)
                heappush(
                    states,
                    _State(doubts, promised + (not goes_on), next(numbers), path, text, here),
                )
    return None


def _allowed(
    tokenizer: LLTokenizer, matcher: LLMatcher, old: tuple[int, ...]
) -> tuple[set[int], bool]:
    """The tokens that may come, or those of the old way alone; whether they are all."""
    mask = matcher.compute_bitmask()
    num_allowed = int.from_bytes(mask, "little").bit_count()
    if num_allowed > _MOST_NEXT:
        return {token for token in old if mask[token // 8] >> token % 8 & 1}, False
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    return {*np.flatnonzero(bits).tolist()} - {*tokenizer.eos_tokens}, True


def _joined(
    matcher: LLMatcher, old: tuple[int, ...], allowed: set[int], has_ends: bool
) -> tuple[int, Way | None]:
    """The last place of the old way whose rest holds here, and that rest."""
    for place in range(len(old) - 1, -1, -1):
        if old[place] in allowed and (rest := way_along(matcher, old[place:], has_ends)):
            return place, rest
    return len(old), None
