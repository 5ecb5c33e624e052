"""The digest of an input as far as it was read, by which another run knows its rows again.

It has three parts. The running digest of all rows says whether they are the same. Marks, the
digests on the way, say between which two rows a change lies: as many as fit, after every row, then
after every second, fourth, ... And the sum of each row's own digest says whether all rows but some
are the same, whatever these are by now: those that failed may be mended. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

__all__ = ["InputCheckpoint", "InputDigest", "Mark", "RowSum"]

Mark = tuple[int, str]
"""After so many rows; the beginning of the digest of all of them."""

_BYTES = 16
"""Of the running digest, and of a row's own."""
_MODULUS = 1 << 8 * _BYTES
_MOST_MARKS = 64
_MARK_LETTERS = 8


@dataclass(frozen=True, slots=True)
class InputCheckpoint:
    """The input up to row `rows_read`: its running digest, and its sources' names and sizes."""

    rows_read: int
    digest: str
    sources: tuple[dict[str, Any], ...] = ()
    marks: tuple[Mark, ...] = ()
    row_sum: str = ""
    """"": an earlier version read the rows."""


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
        return _sum_text(self._sum)


class InputDigest:
    """Is fed with what each row is, in input order. `rows`: so many so far, those included that
    came before the `first` that it is fed with."""

    __slots__ = ("_every", "_hash", "_marks", "_next", "_sum", "_update", "rows")

    def __init__(self, first: int = 0) -> None:
        self._hash = blake2b(digest_size=_BYTES)
        self._update = self._hash.update
        self._marks: list[Mark] = []
        self._every = self._next = 1
        self._sum, self.rows = 0, first

    def add(self, content: bytes) -> bytes:
        """Take the next row in; its own digest, of [16] bytes, which its place is part of."""
        own = blake2b(content, digest_size=_BYTES, salt=self.rows.to_bytes(8, "little")).digest()
        self._sum += int.from_bytes(own, "little")
        self.pass_over(content)
        return own

    def pass_over(self, content: bytes) -> None:
        """Take the next row in where nobody asks for rows' own digests: their sum is void then."""
        self._update(content)
        self.rows += 1
        if self.rows == self._next:
            self._mark()

    @property
    def row_sum(self) -> int:
        """Of the own digests of the rows that it was fed with."""
        return self._sum

    def hexdigest(self) -> str:
        """Of the rows so far."""
        return self._hash.hexdigest()

    def mark(self) -> str:
        """The same as a mark has it."""
        return self.hexdigest()[:_MARK_LETTERS]

    def checkpoint(self) -> InputCheckpoint:
        """All that is known by now, for a manifest; whoever opened the sources knows them."""
        return InputCheckpoint(
            self.rows, self.hexdigest(), marks=tuple(self._marks), row_sum=_sum_text(self._sum)
        )

    def _mark(self) -> None:
        """Every other mark goes when there is no more room."""
        self._marks.append((self.rows, self.mark()))
        if len(self._marks) == _MOST_MARKS:
            self._marks = self._marks[1::2]
            self._every *= 2
        self._next = self.rows + self._every


def _sum_text(total: int) -> str:
    return f"{total % _MODULUS:0{2 * _BYTES}x}"
