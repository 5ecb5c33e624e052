"""Digests of the input after some of its rows, so that a change can be said to lie between two.

As many as fit: after every row, then after every second, fourth, ... And the sum of digests of
single rows, which tells whether all rows but some are still the same, whatever these are by now:
those that failed may be mended. Standard library only.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Protocol

__all__ = ["Mark", "Marks", "RowSum", "mark_of", "row_digest"]

Mark = tuple[int, str]
"""After so many rows; the beginning of the digest of all of them."""

_ROW_BYTES = 16
_MODULUS = 1 << 8 * _ROW_BYTES
_MOST = 64
_LETTERS = 8


class Digest(Protocol):
    """A hash of hashlib's that is still being fed."""

    def copy(self) -> Digest:
        """Another one in the same state."""

    def hexdigest(self) -> str:
        """What it came to."""


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


def row_digest(index: int, content: bytes) -> bytes:
    """Of one row in its place: [16] bytes."""
    return blake2b(content, digest_size=_ROW_BYTES, salt=index.to_bytes(8, "little")).digest()


class RowSum:
    """A sum of row digests, in any order; those of some rows can be taken out again."""

    __slots__ = ("_sum",)

    def __init__(self, text: str = "") -> None:
        """`text`: where another one was (`str`); "": no row."""
        self._sum = int(text or "0", 16)

    def add(self, digest: bytes) -> None:
        """Put a row in."""
        self._sum += int.from_bytes(digest, "little")

    def remove(self, digest: bytes) -> None:
        """Take a row out."""
        self._sum -= int.from_bytes(digest, "little")

    def __str__(self) -> str:
        return f"{self._sum % _MODULUS:0{2 * _ROW_BYTES}x}"
