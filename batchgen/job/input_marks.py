"""Digests of the input after some of its rows, so that a change can be said to lie between two.

As many as fit: after every row, then after every second, fourth, ... Standard library only.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Mark", "Marks", "mark_of"]

Mark = tuple[int, str]
"""After so many rows; the beginning of the digest of all of them."""

_MOST = 64
_LETTERS = 8


class Digest(Protocol):
    """A hash of hashlib's that is still being fed."""

    def copy(self) -> Digest:
        """Another one in the same state."""
        ...

    def hexdigest(self) -> str:
        """What it came to."""
        ...


class Marks:
    """Takes marks at the rows that `next` names."""

    def __init__(self) -> None:
        self._taken: list[Mark] = []
        self._every = 1
        self.next = 1

    def take(self, rows: int, digest: Digest) -> None:
        """Note the digest after `rows` rows, which are `next`; every other mark goes when full."""
        self._taken.append((rows, mark_of(digest)))
        if len(self._taken) == _MOST:
            self._taken = self._taken[1::2]
            self._every *= 2
        self.next = rows + self._every

    def __call__(self) -> tuple[Mark, ...]:
        """Those taken so far, by rows."""
        return tuple(self._taken)


def mark_of(digest: Digest) -> str:
    """The digest as a mark has it."""
    return digest.copy().hexdigest()[:_LETTERS]
