"""Tokens that end what a grammar has begun, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher

__all__ = ["NO_WAY", "Way", "way_along"]


@dataclass(frozen=True, slots=True)
class Way:
    """Tokens after which a grammar holds. `cost`: with the end token that has to follow, if any."""

    tokens: tuple[int, ...]
    cost: int


NO_WAY = Way((), 1 << 40)
"""Where it is known that none is short enough."""


def way_along(matcher: LLMatcher, path: Sequence[int], has_ends: bool) -> Way | None:
    """These tokens as a way, if they are one."""
    tokens = list(path)
    if matcher.validate_tokens(tokens) < len(tokens):
        return None
    end = matcher.deep_copy()
    if (tokens and not end.consume_tokens(tokens)) or not end.is_accepting():
        return None
    return Way(tuple(tokens), len(tokens) + (has_ends and not end.is_stopped()))
