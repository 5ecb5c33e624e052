"""Lets long work be stopped: it calls a check now and then, which raises to end it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["StopCheck", "never"]

StopCheck = Callable[[], object]
"""Called again and again by work that takes long; what it raises ends that work."""


def never() -> None:
    """A `StopCheck` that stops nothing."""
