"""Masks of a step's rows on the host: begun before the model runs, or left out where it shows that
the likeliest token is allowed anyway.

A mask costs a walk over the vocabulary, to ask for one token a thousandth of that; and a model that
was asked for JSON mostly writes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from batchgen.engine.sampling.rules import (
    AllowedTokens,
    BegunWords,
    TokenRules,
    Words,
    fixed_words,
)
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["RowMasks"]


class RowMasks:
    """Of the sequence in each slot."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rules: list[TokenRules | Words | None] = [None] * num_slots
        self._may_do_without = [False] * num_slots
        self._begun: BegunWords | None = None

    def admit(self, sequence: Sequence) -> None:
        """Take over the rules of a sequence that has a slot now."""
        request, slot = sequence.request, sequence.slot
        if sequence.needs_known_tokens:
            self._rules[slot] = TokenRules(request, self._vocab_size)
        else:
            self._rules[slot] = fixed_words(request, self._vocab_size)
        self._may_do_without[slot] = _takes_likeliest(sequence)

    def begin(self, sequences: list[Sequence]) -> None:
        """Begin with those that are needed in any case, grammars' in other threads. No token may
        be delivered before `gather`, which waits for them."""
        if self._begun is not None:  # of a step that failed: its rows are asked again
            self._begun.result()
        self._begun = self._masks(sequences, lambda row, s: not self._may_do_without[s.slot])

    def gather(
        self, sequences: list[Sequence], logits: torch.Tensor | None = None
    ) -> AllowedTokens | None:
        """What the rows may take. With `logits` [num_rows, vocab_size] on a CPU, a mask that would
        not change which token is the likeliest is left out."""
        if self._begun is None:
            self.begin(sequences)
        assert self._begun is not None
        late = self._masks(sequences, lambda row, s: self._is_late(s, row, logits))
        filled = self._begun.result() + late.result()
        self._begun = None
        ruled = [(row, words) for row, words in filled if words is not None]
        if not ruled:
            return None
        return AllowedTokens([row for row, _ in ruled], np.stack([words for _, words in ruled]))

    def _masks(
        self, sequences: list[Sequence], wanted: Callable[[int, Sequence], bool]
    ) -> BegunWords:
        rules = [self._rules[s.slot] if wanted(row, s) else None for row, s in enumerate(sequences)]
        return BegunWords(list(zip(rules, sequences, strict=True)))

    def _is_late(self, sequence: Sequence, row: int, logits: torch.Tensor | None) -> bool:
        """Whether a row that might have done without its mask needs it now."""
        if not self._may_do_without[sequence.slot] or logits is None:
            return self._may_do_without[sequence.slot]
        return not sequence.allows(int(logits[row].float().numpy().argmax()))


def _takes_likeliest(sequence: Sequence) -> bool:
    """Whether it takes the likeliest of the tokens that its constraint allows: nothing else says
    what it may take."""
    params = sequence.request.params
    return (
        sequence.request.constraint is not None
        and params.greedy
        and not (
            sequence.counts_tokens
            or params.min_tokens
            or params.logit_bias
            or params.allowed_token_ids
            or params.bad_words
            or params.no_repeat_ngram_size
        )
    )
