"""The shortest suffix where a grammar allows few tokens at each position: a best-first search.

A state is the text that its tokens spell, so that two tokenisations of one text are looked at once.
The search starts from a known suffix that is too long. Where a state can be followed by a tail of
the known suffix, it has *joined* it at the place where that tail begins, and its estimate is the
tokens so far and that tail; a state that has not joined adds one for each token since its parent
had. So alternatives to a word are tried in the order of their lengths, and a shorter one is
followed at once. Two kinds of states are put off, as they would multiply the texts: those that join
at a place that another one reached with no more tokens, and those with a blank that JSON could
leave out.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from batchgen.engine.grammar.suffix import NO_SUFFIX, Suffix, as_suffix

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["shortest_suffix"]

_MOST_STATES = 256
"""States that are looked at, 0.1 to 0.2 ms each with a vocabulary of 49,000."""
_MOST_NEXT = 64
"""Up to so many allowed tokens are all followed; of more (within text) those of the known
suffix."""


class _State(NamedTuple):
    """A text. States are ordered as they are looked at: doubts, estimate, arrival."""

    num_doubts: int
    estimate: int
    number: int
    tokens: tuple[int, ...]
    text: bytes
    before: LLMatcher
    """The matcher before the last token."""


def shortest_suffix(
    tokenizer: LLTokenizer, matcher: LLMatcher, known: Suffix | None, room: int, has_ends: bool
) -> Suffix | None:
    """A suffix that costs at most `room`. NO_SUFFIX: there is none; None: none was found. `known`:
    a suffix that costs more, None where there is none."""
    old = () if known is None else known.tokens
    states, fewest, numbers = [_State(0, 0, 0, (), b"", matcher)], {b"": 0}, count(1)
    places: dict[int, int] = {}
    is_whole = True
    for _ in range(_MOST_STATES):
        if not states:
            return NO_SUFFIX if is_whole else None
        state = heappop(states)
        here, num_tokens = state.before.deep_copy(), len(state.tokens)
        if state.tokens and not here.consume_token(state.tokens[-1]):
            continue
        end = as_suffix(here, (), has_ends)
        if end is not None and num_tokens + end.cost <= room:
            return Suffix(state.tokens, num_tokens + end.cost)
        if here.is_stopped() or num_tokens >= room:
            continue
        allowed, are_all = _allowed(tokenizer, here, old)
        is_whole &= are_all
        num_doubts, estimate = state.num_doubts, state.estimate
        place, rest = _joined(here, old, allowed, has_ends)
        if rest is not None:
            estimate = num_tokens + rest.cost
            if estimate <= room:
                return Suffix(state.tokens + rest.tokens, estimate)
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
                    _State(doubts, estimate + (not goes_on), next(numbers), path, text, here),
                )
    return None


def _allowed(
    tokenizer: LLTokenizer, matcher: LLMatcher, old: tuple[int, ...]
) -> tuple[set[int], bool]:
    """The tokens that may come, or only those of the known suffix; whether they are all."""
    mask = matcher.compute_bitmask()
    num_allowed = int.from_bytes(mask, "little").bit_count()
    if num_allowed > _MOST_NEXT:
        return {token for token in old if mask[token // 8] >> token % 8 & 1}, False
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
    return {*np.flatnonzero(bits).tolist()} - {*tokenizer.eos_tokens}, True


def _joined(
    matcher: LLMatcher, old: tuple[int, ...], allowed: set[int], has_ends: bool
) -> tuple[int, Suffix | None]:
    """The last place of the known suffix whose tail completes the text from here, and that tail."""
    for place in range(len(old) - 1, -1, -1):
        if old[place] in allowed and (rest := as_suffix(matcher, old[place:], has_ends)):
            return place, rest
    return len(old), None
