"""Which bucket a step runs in, and when a bucket gets a CUDA graph of its own.

To capture one costs about what a hundred steps lose by running in the next larger one: a short job
makes do with few graphs, a long one gets them all. A bucket that no graph covers is captured at its
second step: what is used once is not worth one, and the first step is its rehearsal. Decode steps
need one rehearsal for all: to launch their kernels takes the host as long as to capture them, and
the device waits either way, so the next sizes are captured at their first step. A step whose
products take longer than its launches needs none: the host is ahead of the device without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchgen.engine.cuda.buckets import Bucket

__all__ = ["DRAWN", "GREEDY", "MIXED", "CaptureCosts", "Captures", "Choice"]

_USES_OF_A_LARGER = 100
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


_FLOPS_PER_S = 700e12
"""Of a Hopper GPU's products in 16 bits. A slower GPU takes graphs where it needs none."""
_CAPTURE_S = 1.8e-3
"""Of a layer: on an H200's host a graph of 32 layers took 34 to 140 ms."""
_LAUNCH_S = 2.5e-3
"""Of a layer, with room: about 0.8 ms there."""


@dataclass(frozen=True, slots=True)
class CaptureCosts:
    """What graphs cost and save, as numbers of tokens whose products take as long."""

    capture: int = 4_000
    """To make one; where nothing is known of the model, as a large one's."""
    launch: int = 1 << 30
    """To launch a step's kernels one by one."""

    @staticmethod
    def of(active_parameters: int, num_layers: int) -> CaptureCosts:
        """Of a model in 16 bits; in fewer, products take half as long at the least."""
        token_s = 2 * active_parameters / _FLOPS_PER_S
        return CaptureCosts(
            int(num_layers * _CAPTURE_S / token_s), int(num_layers * _LAUNCH_S / token_s)
        )


class Captures:
    """Graphs by bucket and by how tokens are chosen."""

    def __init__(self, costs: CaptureCosts | None = None) -> None:
        self._costs = costs or CaptureCosts()
        self.graphs: dict[tuple[Bucket, Hashable], Any] = {}
        self.rehearsed: set[tuple[Bucket, Hashable]] = set()
        """What was run once without a graph, and could be captured."""
        self._decodes: dict[tuple[bool, Hashable], bool] = {}
        """Kinds of decode steps (whether they share reads, how tokens are chosen) of which one was
        rehearsed; False where another could not be captured without."""
        self.refused: set[tuple[Bucket, Hashable]] = set()
        """What memory had no room for."""
        self._uses: Counter[tuple[Bucket, Hashable]] = Counter()
        self._padding: Counter[tuple[Bucket, Hashable]] = Counter()

    def bucket_for(self, wanted: Bucket, choice: Hashable) -> Bucket:
        """Count a use of the smallest bucket that holds a step; returns the one to run it in."""
        key = (wanted, choice)
        if key in self.graphs or self._needs_none(wanted):
            return wanted
        # Only one that has a graph already: to capture it would cost as much as the right one.
        larger = min(
            (
                bucket
                for bucket, chosen in self.graphs
                if (chosen, bucket.shares, bucket.is_decode)
                == (choice, wanted.shares, wanted.is_decode)
                and _stands_in(bucket, wanted)
            ),
            default=wanted,
        )
        self._uses[key] += 1
        self._padding[key] += larger.num_tokens - wanted.num_tokens
        if wanted.is_decode:
            is_common = self._uses[key] > _USES_OF_A_LARGER
        else:  # every padded token costs its products
            is_common = self._padding[key] > self._costs.capture
        return wanted if is_common else larger

    def note_rehearsed(self, bucket: Bucket, choice: Hashable) -> None:
        """A step of this bucket ran without a graph, and nothing in it keeps it from having one."""
        self.rehearsed.add((bucket, choice))
        if bucket.is_decode:
            self._decodes.setdefault((bucket.shares, choice), True)

    def note_unrehearsed(self, bucket: Bucket, choice: Hashable) -> None:
        """It could not be captured at its first step: all of its kind are rehearsed from now on."""
        self._decodes[bucket.shares, choice] = False

    def is_due(self, bucket: Bucket, choice: Hashable) -> bool:
        """Whether a bucket that runs without a graph is to be captured now."""
        key = (bucket, choice)
        if self._needs_none(bucket) or key in self.refused:
            return False
        at_once = bucket.is_decode and self._decodes.get((bucket.shares, choice), False)
        return at_once or key in self.rehearsed

    def _needs_none(self, bucket: Bucket) -> bool:
        return not bucket.is_decode and bucket.num_tokens >= self._costs.launch


def _stands_in(larger: Bucket, wanted: Bucket) -> bool:
    """Whether a step of the wanted size takes little longer in the larger bucket."""
    if larger.num_seqs < wanted.num_seqs or larger.num_tokens <= wanted.num_tokens:
        return False
    if wanted.is_decode:
        return larger.num_seqs <= max(wanted.num_seqs * 5 // 4, min(wanted.num_seqs * 2, _FLAT))
    return larger.num_tokens <= wanted.num_tokens * 3 // 2
