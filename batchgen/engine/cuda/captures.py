"""Which bucket a step runs in, and when a bucket gets a CUDA graph of its own.

To capture one costs about what a hundred steps lose by running in the next larger one: a short job
makes do with few graphs, a long one gets them all. A bucket that no graph covers is captured at its
second step: what is used once is not worth one, and the first step is its rehearsal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any, NamedTuple

from batchgen.engine.cuda.buckets import Bucket

__all__ = ["DRAWN", "GREEDY", "MIXED", "Captures", "Choice"]

_USES_OF_A_LARGER = 100
_FLAT = 256
"""Up to so many tokens a decode step takes about as long with twice as many."""


class Choice(NamedTuple):
    """How a step's tokens are chosen; each has graphs of its own."""

    kind: str
    tables: tuple[bool, bool] = (False, False)
    """Of `DeviceSampler`: those that a graph reads."""


GREEDY = Choice("greedy")
DRAWN = Choice("drawn")
"""By temperature alone."""
MIXED = "mixed"
"""Any mix of rows: filters, penalties, masks, logprobs."""


class Captures:
    """Graphs by bucket and by how tokens are chosen."""

    def __init__(self) -> None:
        self.graphs: dict[tuple[Bucket, Hashable], Any] = {}
        self.rehearsed: set[tuple[Bucket, Hashable]] = set()
        """What was run once without a graph, and could be captured."""
        self.refused: set[tuple[Bucket, Hashable]] = set()
        """What memory had no room for."""
        self._uses: Counter[tuple[Bucket, Hashable]] = Counter()

    def bucket_for(self, wanted: Bucket, choice: Hashable) -> Bucket:
        """Count a use of the smallest bucket that holds a step; returns the one to run it in."""
        key = (wanted, choice)
        if key in self.graphs:
            return wanted
        self._uses[key] += 1
        if not wanted.is_decode or self._uses[key] > _USES_OF_A_LARGER:
            return wanted
        most = max(wanted.num_seqs * 5 // 4, min(wanted.num_seqs * 2, _FLAT))
        # Only one that has a graph already: to capture it would cost as much as the right one.
        larger = (
            bucket
            for bucket, chosen in self.graphs
            if (chosen, bucket.shares) == (choice, wanted.shares)
            and bucket.is_decode
            and wanted.num_seqs < bucket.num_seqs <= most
        )
        return min(larger, default=wanted)

    def is_due(self, bucket: Bucket, choice: Hashable) -> bool:
        """Whether a bucket that runs without a graph is to be captured now."""
        key = (bucket, choice)
        return key in self.rehearsed and key not in self.refused
