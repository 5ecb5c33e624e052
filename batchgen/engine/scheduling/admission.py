"""The waiting queue: who is admitted next. Standard library only.

Preempted sequences come first, in the order they were first admitted. New ones come in windows of
`reorder_window` arrivals: inside a window long outputs go first (the job's tail gets short), and no
window overtakes an earlier one. Who finds nobody waiting begins a window. So a sequence is passed
by at most `reorder_window - 1` others, whatever arrives after it: nobody starves. A window of 1 is
FIFO; so is any window whose outputs have equal limits.
"""

from __future__ import annotations

import heapq

from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["AdmissionQueue"]

_Key = tuple[int, int, int]  # (window, -output limit, arrival); window -1: preempted


class AdmissionQueue:
    """A heap with lazy removal: push, pop and discard cost O(log n) or less."""

    def __init__(self, reorder_window: int = 1) -> None:
        if reorder_window < 1:
            raise ValueError(f"reorder_window must be at least 1, not {reorder_window}")
        self._window = reorder_window
        self._heap: list[tuple[_Key, Sequence]] = []
        self._members: set[Sequence] = set()
        self._num_arrivals = 0
        self._num_windows = 0
        self._left_in_window = 0
        self._num_admitted = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._members

    def push(self, sequence: Sequence) -> None:
        """Queue a new sequence, or a preempted one ahead of all new ones."""
        if sequence.admission_index >= 0:
            key = (-1, 0, sequence.admission_index)
        else:
            if not (self._left_in_window and self._members):
                self._num_windows += 1
                self._left_in_window = self._window
            self._left_in_window -= 1
            self._num_arrivals += 1
            remaining = sequence.max_num_tokens - sequence.num_tokens
            key = (self._num_windows, -remaining, self._num_arrivals)
        heapq.heappush(self._heap, (key, sequence))
        self._members.add(sequence)

    def peek(self) -> Sequence:
        """The next one; the queue must not be empty."""
        while self._heap[0][1] not in self._members:
            heapq.heappop(self._heap)
        return self._heap[0][1]

    def pop(self) -> Sequence:
        """Take the next one and number its first admission."""
        sequence = self.peek()
        heapq.heappop(self._heap)
        self._members.remove(sequence)
        if sequence.admission_index < 0:
            sequence.admission_index = self._num_admitted
            self._num_admitted += 1
        return sequence

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence that ended while it waited."""
        self._members.discard(sequence)
