"""Errors of other libraries, in messages."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: Exception) -> str:
    """What the error says, without the rest that some add; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
