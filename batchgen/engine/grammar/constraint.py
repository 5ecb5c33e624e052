"""A grammar over tokens, as one sequence's state.

llguidance (Moskal et al., Microsoft; an Earley parser over derivatives of regular expressions)
knows which bytes may follow, and walks the vocabulary's trie for the tokens made of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchgen.errors import ErrorCode, RowError

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["GrammarConstraint"]

BITS = 32


class GrammarConstraint:
    """`request.Constraint` of one grammar.

    `end_token_ids`: tokens that end the sequence, allowed wherever the grammar may. EOS is among
    them or not; where nothing else can follow it is allowed all the same.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        vocab_size: int,
        end_token_ids: Collection[int],
        eos_token_ids: Collection[int],
    ) -> None:
        self._matcher = matcher
        self._num_words = -(-vocab_size // BITS)
        self._ends = [token for token in end_token_ids if 0 <= token < vocab_size]
        self._eos = [token for token in eos_token_ids if 0 <= token < vocab_size]

    def advance(self, token: int) -> bool:
        """See `Constraint.advance`."""
        matcher = self._matcher
        if matcher.is_stopped():
            return True
        if not matcher.consume_token(token):
            raise _beyond_limits(matcher)
        return bool(matcher.is_stopped())

    def fill(self, mask: Any) -> bool:
        """See `Constraint.fill`. The GIL is free while it works."""
        own: npt.NDArray[np.int32] = np.zeros(self._num_words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(own.ctypes.data, own.nbytes)
        if self._matcher.is_error():
            raise _beyond_limits(self._matcher)
        if self._matcher.is_accepting():
            self._set_ends(own)
        num_words = min(len(mask), len(own))
        mask[:num_words] = own[:num_words]
        return True

    def _set_ends(self, mask: npt.NDArray[np.int32]) -> None:
        bits = mask.view(np.uint32)
        for token in self._eos:  # llguidance has set them
            bits[token // BITS] &= ~np.uint32(1 << token % BITS)
        for token in self._ends if bits.any() or self._ends else self._eos:
            bits[token // BITS] |= np.uint32(1 << token % BITS)


def _beyond_limits(matcher: LLMatcher) -> RowError:
    reason = " ".join(str(matcher.get_error()).split())[:300] or "a token was refused"
    return RowError(ErrorCode.INVALID_SCHEMA, f"the grammar cannot be followed further: {reason}")
