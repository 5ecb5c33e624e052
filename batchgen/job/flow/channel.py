"""A bounded queue of batches between two threads that can be closed by either side."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sized
from typing import Generic, TypeVar

__all__ = ["Cancelled", "Channel"]

Batch = TypeVar("Batch", bound=Sized)


class Cancelled(Exception):
    """The other side is gone: stop working for it."""


class Channel(Generic[Batch]):
    """Batches in order; a sender waits while `capacity` rows or more are in it, or batches of
    `most_weight` or more together, where `weigh` is given.

    `close`: no more come. `cancel`: no more are wanted.
    """

    def __init__(
        self,
        capacity: int,
        weigh: Callable[[Batch], int] = len,
        most_weight: int = sys.maxsize,
    ) -> None:
        self._batches: deque[tuple[Batch, int]] = deque()
        self._num_rows = 0
        self._weight = 0
        self._capacity = capacity
        self._weigh = weigh
        self._most_weight = most_weight
        self._changed = threading.Condition()
        self._closed = False
        self._cancelled = False

    def put(self, batch: Batch) -> None:
        """Add one batch, waiting for room. Raises Cancelled when nobody will take it."""
        weight = self._weigh(batch)
        with self._changed:
            while self._is_full() and not self._cancelled:
                self._changed.wait()
            if self._cancelled:
                raise Cancelled
            self._batches.append((batch, weight))
            self._num_rows += len(batch)
            self._weight += weight
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Batch | None:
        """The next batch; None when it is closed and drained, cancelled, or the time is over."""
        with self._changed:
            if not self._batches and not self._closed:
                self._changed.wait_for(self._has_news, timeout)
            if not self._batches:
                return None
            batch, weight = self._batches.popleft()
            self._num_rows -= len(batch)
            self._weight -= weight
            self._changed.notify_all()
            return batch

    def _is_full(self) -> bool:
        return self._num_rows >= self._capacity or self._weight >= self._most_weight

    def _has_news(self) -> bool:
        return bool(self._batches) or self._closed

    @property
    def drained(self) -> bool:
        """Whether no batch is left and none will come."""
        return self._closed and not self._batches

    def close(self) -> None:
        """Say that no more batches come; those waiting are still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drop what waits and refuse what comes."""
        with self._changed:
            self._closed = self._cancelled = True
            self._batches.clear()
            self._num_rows = self._weight = 0
            self._changed.notify_all()
