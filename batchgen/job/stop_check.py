"""Looking up from work that takes long, to see whether it is to be ended."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Look", "nothing"]

Look = Callable[[], object]
"""Called again and again while something takes long; what it raises ends it."""


def nothing() -> None:
    """The look of those who end nothing."""
