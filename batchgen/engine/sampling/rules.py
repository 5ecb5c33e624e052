"""Which tokens a row may take next, as far as the host decides: masks of one bit a token.

Fixed for a row: allowed ids, bad words of one token. Made anew for each token: n-grams that would
repeat, the last token of a longer bad word, a grammar's mask. Each means what it does in
transformers.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchgen.engine.request import Request
from batchgen.engine.scheduling.sequence import Sequence

__all__ = [
    "AllowedTokens",
    "BegunMasks",
    "TokenMask",
    "TokenRules",
    "fixed_mask",
    "is_bare",
    "mask_of",
    "mask_width",
]

TokenMask = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class AllowedTokens:
    """The masks of those rows that have one, on the host, in the layout of `Constraint.fill`."""

    rows: list[int]
    masks: TokenMask  # [num_rows, ceil(vocab_size / 32)]


def mask_width(vocab_size: int) -> int:
    """int32 words that hold one bit a token."""
    return -(-vocab_size // 32)


def mask_of(ids: Iterable[int], vocab_size: int) -> TokenMask:
    """The mask that allows these ids alone; those outside the vocabulary are left out."""
    bits = np.zeros(mask_width(vocab_size) * 32, dtype=np.uint8)
    bits[[token for token in ids if 0 <= token < vocab_size]] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def fixed_mask(request: Request, vocab_size: int) -> TokenMask | None:
    """The mask that holds at every position of a row's output; None: every token is allowed."""
    params = request.params
    bad = [word[0] for word in params.bad_words if len(word) == 1]
    if not params.allowed_token_ids and not bad:
        return None
    every = np.full(mask_width(vocab_size), -1, dtype=np.int32)
    allowed = params.allowed_token_ids
    mask = mask_of(allowed, vocab_size) if allowed else every
    return mask & ~mask_of(bad, vocab_size)


def is_bare(sequence: Sequence) -> bool:
    """Whether at most a temperature and filters apply to its logits, and it reports nothing but the
    token."""
    params = sequence.request.params
    return not (
        sequence.counts_tokens
        or sequence.needs_known_tokens
        or params.logprobs is not None
        or params.top_logprobs
        or params.min_tokens
        or params.logit_bias
        or params.allowed_token_ids
        or params.bad_words
    )


class TokenRules:
    """All rules of one row, for rows whose rules depend on their output."""

    def __init__(self, request: Request, vocab_size: int) -> None:
        params = request.params
        self._vocab_size = vocab_size
        self._fixed = fixed_mask(request, vocab_size)
        self._phrases = [array("i", word) for word in params.bad_words if len(word) > 1]
        size = params.no_repeat_ngram_size
        self._ngrams = _NgramIndex(size) if size > 0 else None

    def mask(self, sequence: Sequence) -> TokenMask | None:
        """The mask of the token after all of a sequence's tokens, none of which is pending. None:
        every token is allowed, so that a row costs nothing while it thinks and its grammar
        waits."""
        mask = np.zeros(mask_width(self._vocab_size), dtype=np.int32)
        is_filled = sequence.fill_allowed(mask)
        banned = self._banned(sequence.token_ids)
        if not (is_filled or banned or self._fixed is not None):
            return None
        if not is_filled:
            mask[:] = -1
        if self._fixed is not None:
            mask &= self._fixed
        for token in banned:
            if 0 <= token < self._vocab_size:
                mask[token // 32] &= ~np.int32(_BIT[token % 32])
        if is_filled and sequence.constraint is not None:
            sequence.constraint.steer(mask)
        return mask

    def _banned(self, known: array[int]) -> set[int]:
        banned = {word[-1] for word in self._phrases if known[1 - len(word) :] == word[:-1]}
        return banned if self._ngrams is None else banned | self._ngrams.followers(known)


class BegunMasks:
    """The masks of a step's rows; those of grammars are being made in other threads."""

    def __init__(self, rows: list[tuple[TokenRules | TokenMask | None, Sequence]]) -> None:
        self._begun = [
            (row, _begin(rules, sequence))
            for row, (rules, sequence) in enumerate(rows)
            if rules is not None
        ]

    def result(self) -> list[tuple[int, TokenMask | None]]:
        """Wait for them: (row, its mask) of each row with rules; None: every token is allowed."""
        return [(row, w.result() if isinstance(w, Future) else w) for row, w in self._begun]


_MOST_THREADS = 8
_threads: ThreadPoolExecutor | None = None  # made with the first grammar


def _begin(
    rules: TokenRules | TokenMask, sequence: Sequence
) -> Future[TokenMask | None] | TokenMask | None:
    global _threads
    if not isinstance(rules, TokenRules):
        return rules
    if sequence.request.constraint is None:
        return rules.mask(sequence)
    if _threads is None:
        most = min(_MOST_THREADS, max(1, len(os.sched_getaffinity(0)) - 1))
        _threads = ThreadPoolExecutor(most, thread_name_prefix="batchgen-grammar")
    return _threads.submit(rules.mask, sequence)


_BIT = (np.uint32(1) << np.arange(32, dtype=np.uint32)).view(np.int32)


class _NgramIndex:
    """Which tokens followed each run of n - 1 tokens; each token is entered once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._after: dict[bytes, set[int]] = {}
        self._num_seen = 0

    def followers(self, known: array[int]) -> set[int]:
        """The tokens that would complete an n-gram which `known` holds already."""
        self._extend(known)
        if len(known) + 1 < self._size:
            return set()
        return self._after.get(known[len(known) + 1 - self._size :].tobytes(), set())

    def _extend(self, known: array[int]) -> None:
        before = self._size - 1
        for end in range(max(self._num_seen, before), len(known)):
            run = known[end - before : end].tobytes()
            self._after.setdefault(run, set()).add(known[end])
        self._num_seen = len(known)
