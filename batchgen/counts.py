"""Numbers of things, in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2,000 rows`. `many` where it is not `one` with an s: `rows are` beside `row is`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
