"""One share of a job's rows: those whose index is `index` modulo `count`. Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import gcd

from batchgen.errors import UsageError

__all__ = ["Shard", "parse_shard"]

_WRITTEN = re.compile(r"^(\d{1,9})/(\d{1,9})$")
_LABEL = re.compile(r"^(\d+)of(\d+)$")


@dataclass(frozen=True, slots=True)
class Shard:
    """Shard `index` of `count`, from 0. `origin`: who chose it, for messages."""

    index: int
    count: int
    origin: str = "--shard"

    @classmethod
    def of_label(cls, label: str) -> Shard | None:
        """The inverse of `label`; None for any other text."""
        match = _LABEL.match(label)
        return cls(int(match[1]), int(match[2])) if match else None

    @property
    def label(self) -> str:
        """`1of4`: for names of files."""
        return f"{self.index}of{self.count}"

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, index: int) -> bool:
        """Whether the row belongs to this shard."""
        return index % self.count == self.index

    def overlaps(self, other: Shard) -> bool:
        """Whether some row belongs to both (the Chinese remainder theorem)."""
        return (self.index - other.index) % gcd(self.count, other.count) == 0

    def num_rows(self, total: int) -> int:
        """How many of the rows 0 to `total` - 1 it has."""
        return max(0, -(-(total - self.index) // self.count))


def parse_shard(text: str) -> Shard:
    """`1/4`. Raises UsageError for anything else."""
    match = _WRITTEN.match(text.strip())
    if match is None or not int(match[1]) < int(match[2]):
        raise UsageError(
            f"--shard {text!r} is not I/N with I from 0 to N - 1",
            "write --shard 0/4 for the first of four shards",
        )
    return Shard(int(match[1]), int(match[2]))
