"""A grammar over tokens, as one sequence's state.

llguidance (Moskal et al., Microsoft; an Earley parser over derivatives of regular expressions)
knows which bytes may follow, and walks the vocabulary's trie for the tokens made of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchgen.engine.grammar.ending import Ending
from batchgen.engine.grammar.suffix_search import Suffixes
from batchgen.errors import ErrorCode, RowError

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["GrammarConstraint"]

BITS = 32
_MOST_REFUSED = 4
"""Tokens that are refused at one position before only those that end in time are allowed."""


class GrammarConstraint:
    """`request.Constraint` of one grammar.

    `end_token_ids`: tokens that end the sequence, allowed wherever the grammar may. EOS is among
    them or not; where nothing else can follow it is allowed all the same. `begin`: how few tokens
    are left when it begins to see to its end.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocab_size: int,
        end_token_ids: Collection[int],
        eos_token_ids: Collection[int],
        suffixes: Suffixes,
        begin: int,
    ) -> None:
        self._matcher = matcher
        self._num_words = -(-vocab_size // BITS)
        self._ends = [token for token in end_token_ids if 0 <= token < vocab_size]
        self._eos = [token for token in eos_token_ids if 0 <= token < vocab_size]
        self._ending = Ending(suffixes, begin, bool(self._ends))
        self._refused: list[int] = []
        self._was_kept_from: bool = False
        self._is_narrowed: bool | None = None
        """Whether the next token had to be one that ends in time; None: was not asked."""

    def advance(self, token: int, room: int) -> bool:
        """See `Constraint.advance`."""
        matcher = self._matcher
        if matcher.is_stopped():
            return True
        self._was_kept_from = self._is_led(room + 1)
        if not matcher.consume_token(token):
            raise _beyond_limits(matcher)
        self._ending.advance(matcher, token, room)
        self._refused.clear()
        self._is_narrowed = None
        return bool(matcher.is_stopped())

    def fill(self, mask: Any) -> bool:
        """See `Constraint.fill`. The GIL is free while it works."""
        own: npt.NDArray[np.int32] = np.zeros(self._num_words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
        if self._matcher.is_error():
            raise _beyond_limits(self._matcher)
        if self._matcher.is_accepting():
            self._set_ends(own)
        else:
            _clear(own, self._eos)  # which a forced text may hold, as text
        num_words = min(len(mask), len(own))
        mask[:num_words] = own[:num_words]
        return True

    def steer(self, mask: Any, room: int) -> None:
        """See `Constraint.steer`."""
        self._is_narrowed = False
        suffix = self._ending.look(self._matcher, room)
        if suffix is None or suffix.cost > room:
            return
        _clear(mask, self._refused)
        if suffix.cost == room or room == 1 or len(self._refused) >= _MOST_REFUSED:
            self._is_narrowed = self._narrow(mask, room)

    def refuses(self, token: int, room: int) -> bool:
        """See `Constraint.refuses`."""
        if token in self._ends or token in self._eos or len(self._refused) > _MOST_REFUSED:
            return False
        suffix = self._ending.look(self._matcher, room + 1)
        if (
            suffix is None
            or suffix.cost > room + 1
            or self._ending.fits(self._matcher, token, room)
        ):
            return False
        self._refused.append(token)
        return True

    def is_steered(self, room: int) -> bool:
        """See `Constraint.is_steered`."""
        is_whole = self._matcher.is_stopped() or self._matcher.is_accepting()
        return is_whole and self._is_led(room)

    def _is_led(self, room: int) -> bool:
        if self._was_kept_from or self._matcher.is_stopped():
            return self._was_kept_from
        if self._is_narrowed is None:  # tokens of an earlier run
            suffix = self._ending.look(self._matcher, room)
            if suffix is None or suffix.cost != room:
                return False
            mask = np.zeros(self._num_words, dtype=np.int32)
            self.fill(mask)
            self.steer(mask, room)
        return bool(self._is_narrowed)

    def _narrow(self, mask: Any, room: int) -> bool:
        """Keep what ends in time; whether that excludes anything. Where it would exclude all, as
        other settings of the row may, nothing is."""
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits).tolist()
        kept = [token for token in allowed if token in self._ends]
        texts = [token for token in allowed if token not in self._ends]
        kept += self._ending.tried(self._matcher, texts, room)
        if not kept or len(kept) == len(allowed):
            return False
        mask[:] = 0
        _set(mask, kept)
        return True

    def _set_ends(self, mask: npt.NDArray[np.int32]) -> None:
        _clear(mask, self._eos)  # llguidance has set them
        _set(mask, self._ends if mask.any() or self._ends else self._eos)


def _set(mask: Any, tokens: Iterable[int]) -> None:
    bits = mask.view(np.uint32)
    for token in tokens:
        bits[token // BITS] |= np.uint32(1 << token % BITS)


def _clear(mask: Any, tokens: Iterable[int]) -> None:
    bits = mask.view(np.uint32)
    for token in tokens:
        bits[token // BITS] &= ~np.uint32(1 << token % BITS)


def _beyond_limits(matcher: LLMatcher) -> RowError:
    reason = " ".join(str(matcher.get_error()).split())[:300] or "a token was refused"
    return RowError(ErrorCode.INVALID_SCHEMA, f"the grammar cannot be followed further: {reason}")
