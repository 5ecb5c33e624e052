"""A suffix: tokens that complete a text which a grammar has begun, and how many it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["NO_SUFFIX", "Suffix", "as_suffix"]


@dataclass(frozen=True, slots=True)
class Suffix:
    """Tokens after which the text is whole. `cost`: their number, with the end token that has to
    follow, if any."""

    tokens: tuple[int, ...]
    cost: int


NO_SUFFIX = Suffix((), 1 << 40)
"""Stands for: it is known that no suffix is short enough."""


def as_suffix(matcher: LLMatcher, path: Sequence[int], has_ends: bool) -> Suffix | None:
    """`path` as a suffix of what `matcher` has taken; None if the grammar does not allow it, or is
    not satisfied after it."""
    tokens = list(path)
    if matcher.validate_tokens(tokens) < len(tokens):
        return None
    end = matcher.deep_copy()
    if (tokens and not end.consume_tokens(tokens)) or not end.is_accepting():
        return None
    return Suffix(tuple(tokens), len(tokens) + (has_ends and not end.is_stopped()))
