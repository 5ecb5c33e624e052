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
_MIXED_USES_OF_A_LARGER = 16
"""Every padded token of a step with prompts costs its products."""
_FLAT = 256
"""Up to so many tokens a decode step takes about as long with twice as many."""


class Choice(NamedTuple):
    """How a step's tokens are chosen; each has graphs of its own."""

    kind: str
    tables: tuple[bool, ...] = ()
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
        if self._uses[key] > (_USES_OF_A_LARGER if wanted.is_decode else _MIXED_USES_OF_A_LARGER):
            return wanted
        # Only one that has a graph already: to capture it would cost as much as the right one.
        larger = (
            bucket
            for bucket, chosen in self.graphs
            if (chosen, bucket.shares, bucket.is_decode)
            == (choice, wanted.shares, wanted.is_decode)
            and _stands_in(bucket, wanted)
        )
        return min(larger, default=wanted)

    def is_due(self, bucket: Bucket, choice: Hashable) -> bool:
        """Whether a bucket that runs without a graph is to be captured now."""
        key = (bucket, choice)
        return key in self.rehearsed and key not in self.refused


def _stands_in(larger: Bucket, wanted: Bucket) -> bool:
    """Whether a step of the wanted size takes little longer in the larger bucket."""
    if larger.num_seqs < wanted.num_seqs or larger.num_tokens <= wanted.num_tokens:
        return False
    if wanted.is_decode:
        return larger.num_seqs <= max(wanted.num_seqs * 5 // 4, min(wanted.num_seqs * 2, _FLAT))
    return larger.num_tokens <= wanted.num_tokens * 3 // 2
