"""An iterator worked one step ahead in a thread of its own: decoding beside encoding."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["prefetched"]

T = TypeVar("T")
_END: Any = object()


def prefetched(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items in the same order, at most `ahead` of them made before they are asked for."""
    with ThreadPoolExecutor(1, thread_name_prefix="batchgen-prefetch") as pool:
        waiting: list[Future[T]] = [pool.submit(next, items, _END) for _ in range(ahead)]
        while (item := waiting.pop(0).result()) is not _END:
            waiting.append(pool.submit(next, items, _END))
            yield item
