"""The waiting queue: who is admitted next. Standard library only.

Preempted sequences come first, in the order they were first admitted. New ones come in windows of
`reorder_window` arrivals: inside a window those with a common prefix stand together, unless all may
run at once, and long outputs go first (`prefix.ordering`); no window overtakes an earlier one. Who
finds nobody waiting begins a window. So a sequence is passed by at most `reorder_window - 1`
others, whatever arrives after it: nobody starves. A window of 1 is FIFO.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from batchgen.engine.prefix.ordering import Room, Row, admission_order
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["AdmissionQueue"]

_NEWCOMERS = 8
"""A window is put in order again when one in so many of its rows came since: so ordering costs a
row the same however many wait."""


class _Window:
    """Sequences that may overtake each other, and room for more of them."""

    def __init__(self, size: int, at_once: Room | None) -> None:
        self.room = size
        self._at_once = at_once
        self._arrived: list[tuple[Sequence, int]] = []
        self._ordered: list[tuple[Sequence, int]] = []  # the next one last

    def push(self, sequence: Sequence, arrival: int) -> None:
        """Take one in; it gets its place later."""
        self._arrived.append((sequence, arrival))
        self.room -= 1

    def in_order(self, members: set[Sequence]) -> Iterator[Sequence]:
        """Members from the next one on; taking one out meanwhile does no harm."""
        ordered = self._ordered
        while ordered and ordered[-1][0] not in members:
            ordered.pop()
        if len(self._arrived) * _NEWCOMERS >= max(1, len(ordered)):
            ordered = self._order(members)
        for position in range(len(ordered) - 1, -1, -1):
            sequence = ordered[position][0]
            if sequence in members:
                yield sequence

    def is_empty(self, members: set[Sequence]) -> bool:
        """Whether nobody of it waits any more."""
        return not any(sequence in members for sequence, _ in self._ordered + self._arrived)

    def _order(self, members: set[Sequence]) -> list[tuple[Sequence, int]]:
        rows = [pair for pair in self._ordered + self._arrived if pair[0] in members]
        order = admission_order(
            (Row(s.block_hashes, s.num_remaining, n, s.max_num_tokens) for s, n in rows),
            self._at_once,
        )
        self._ordered = [rows[i] for i in reversed(order)]
        self._arrived = []
        return self._ordered


class AdmissionQueue:
    """Removal is lazy: a window drops who is no member any more when it next looks at it.

    at_once: what may run at once.
    """

    def __init__(self, reorder_window: int = 1, at_once: Room | None = None) -> None:
        if reorder_window < 1:
            raise ValueError(f"reorder_window must be at least 1, not {reorder_window}")
        self._window_size = reorder_window
        self._at_once = at_once
        self._windows: deque[_Window] = deque()
        self._new: set[Sequence] = set()
        self._preempted: dict[int, Sequence] = {}  # by the number of their first admission
        self._num_arrivals = 0
        self._num_admitted = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._preempted)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._new or sequence.admission_index in self._preempted

    def push(self, sequence: Sequence) -> None:
        """Queue a new sequence, or a preempted one ahead of all new ones."""
        if sequence.admission_index >= 0:
            self._preempted[sequence.admission_index] = sequence
            return
        if not len(self):
            self._windows.clear()
        if not self._windows or not self._windows[-1].room:
            self._windows.append(_Window(self._window_size, self._at_once))
        self._num_arrivals += 1
        self._windows[-1].push(sequence, self._num_arrivals)
        self._new.add(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """The next one, then who may overtake it, in order; `take` those that are admitted."""
        for index in sorted(self._preempted):
            yield self._preempted[index]
        while self._windows and not self._preempted:
            window = self._windows[0]
            yield from window.in_order(self._new)
            # Somebody of this window may still be passed over: no later window overtakes it.
            if not window.is_empty(self._new):
                return
            if len(self._windows) == 1 and window.room:
                return  # newcomers still belong to it
            self._windows.popleft()

    def take(self, sequence: Sequence) -> None:
        """Take one out and number its first admission."""
        self.discard(sequence)
        if sequence.admission_index < 0:
            sequence.admission_index = self._num_admitted
            self._num_admitted += 1

    def discard(self, sequence: Sequence) -> None:
        """Forget a sequence that ended while it waited."""
        self._new.discard(sequence)
        self._preempted.pop(sequence.admission_index, None)
