"""A bounded queue between two threads that can be closed by either side."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Cancelled", "Channel"]

Item = TypeVar("Item")


class Cancelled(Exception):
    """The other side is gone: stop working for it."""


class Channel(Generic[Item]):
    """Items in order, at most `capacity` waiting. `close`: no more come; `cancel`: not wanted."""

    def __init__(self, capacity: int) -> None:
        self._items: deque[Item] = deque()
        self._capacity = capacity
        self._changed = threading.Condition()
        self._closed = False
        self._cancelled = False

    def put(self, item: Item) -> None:
        """Add one item, waiting for room. Raises Cancelled when nobody will take it."""
        with self._changed:
            while len(self._items) >= self._capacity and not self._cancelled:
                self._changed.wait()
            if self._cancelled:
                raise Cancelled
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Item | None:
        """The next item; None when it is closed and drained, cancelled, or the time is over."""
        with self._changed:
            if not self._items and not self._closed:
                self._changed.wait_for(self._has_news, timeout)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _has_news(self) -> bool:
        return bool(self._items) or self._closed

    @property
    def drained(self) -> bool:
        """Whether no item is left and none will come."""
        return self._closed and not self._items

    def close(self) -> None:
        """Say that no more items come; those waiting are still taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Drop what waits and refuse what comes."""
        with self._changed:
            self._closed = self._cancelled = True
            self._items.clear()
            self._changed.notify_all()
