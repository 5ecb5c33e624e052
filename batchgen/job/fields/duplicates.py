"""Which ids have been seen, at about 11 bytes of memory an id.

A set of Python strings takes over 100 bytes an id. Here an id is an 80-bit digest (a billion ids
collide with probability 4e-7), kept in buckets of some 128 digests, each one bytes object, so that
the search runs in C. Buckets split one at a time as the set grows (linear hashing: Litwin, 1980),
so that no insertion is slow and no second table is ever held.
"""

from __future__ import annotations

from hashlib import blake2b

from batchgen.errors import ErrorCode, RowError
from batchgen.job.quoting import shown
from batchgen.job.rows import InputRow

__all__ = ["SeenIds"]

_DIGEST_BYTES = 10
_BUCKET_IDS = 128
"""Mean digests a bucket before one splits."""
_FIRST_BUCKETS = 16


class SeenIds:
    """A set of ids that only grows."""

    __slots__ = ("_buckets", "_count", "_level", "_split")

    def __init__(self) -> None:
        self._buckets = [b""] * _FIRST_BUCKETS
        self._level = _FIRST_BUCKETS
        self._split = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, id: str) -> bool:
        """Enter an id; False if it was there already."""
        digest = blake2b(id.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        place = self._place(digest)
        bucket = self._buckets[place]
        at = bucket.find(digest)
        while at % _DIGEST_BYTES and at > 0:
            at = bucket.find(digest, at + 1)
        if at >= 0:
            return False
        self._buckets[place] = bucket + digest
        self._count += 1
        if self._count > _BUCKET_IDS * len(self._buckets):
            self._split_one()
        return True

    def enter(self, row: InputRow) -> None:
        """Enter the row's id, if it has one; the row is an error where an earlier one had it."""
        if row.id is not None and not self.add(row.id):
            text = f"id {shown(row.id)} was used by an earlier row"
            row.error = RowError(ErrorCode.DUPLICATE_ID, text)

    def _place(self, digest: bytes) -> int:
        number = int.from_bytes(digest[:6], "little")
        place = number % self._level
        return place if place >= self._split else number % (2 * self._level)

    def _split_one(self) -> None:
        """Share the next bucket in turn with a new one at the end."""
        old = self._split
        self._split += 1
        bucket = self._buckets[old]
        stay, move = bytearray(), bytearray()
        for at in range(0, len(bucket), _DIGEST_BYTES):
            digest = bucket[at : at + _DIGEST_BYTES]
            number = int.from_bytes(digest[:6], "little")
            (stay if number % (2 * self._level) == old else move).extend(digest)
        self._buckets[old] = bytes(stay)
        self._buckets.append(bytes(move))
        if self._split == self._level:
            self._level *= 2
            self._split = 0
