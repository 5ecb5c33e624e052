"""A few lines of a name and what there is to say of it, aligned."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["aligned"]


def aligned(rows: Iterable[tuple[str, str]], indent: int = 2) -> list[str]:
    """`  name    text` a row; rows without text are left out."""
    kept = [(name, text) for name, text in rows if text]
    width = max((len(name) for name, _ in kept), default=0)
    return [f"{'':{indent}}{name:<{width}}  {text}" for name, text in kept]
